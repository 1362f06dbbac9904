"""The notebook runs as a person runs it, and its numbers are those of the stores."""

import asyncio
import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from numpy.typing import NDArray
from PIL import Image
from traitlets.config import Config

from store.read import FeatureReader
from tests.pipeline.workplace import (
    PHOTOS,
    REPOSITORY,
    SMALLEST,
    add_photos,
    demand,
    the_store,
    write_params,
)

NOTEBOOK = REPOSITORY / "examples" / "inspect_features.ipynb"
LEVELS = ("stride8", "stride16")
TWIN = "source/train/day/images/00004"
"""This image of the source is the first one of the target, too."""
SMALL = "source/train/day/images/00001"
"""This image of the source is smaller than the others, and padded."""
REMOVED = "source/train/day/images/00005"
"""This image of the source was embedded, and then taken away."""

PROBE = """
import json

print(json.dumps({
    "mean": {" ".join(key): mean.values.tolist() for key, (mean, _) in found.items()},
    "std": {" ".join(key): std.values.tolist() for key, (_, std) in found.items()},
    "chunks": {" ".join(key): data[key[0]][key[1]].data.npartitions for key in found},
    "places": dict(zip(QUERIES, places)),
    "query_id": str(query_id),
    "nearest": {name: [[image, int(y), int(x), c] for image, y, x, c in tokens]
                for name, tokens in nearest.items()},
    "valid": {" ".join(key): int(tokens(*key).isel(channel=0).notnull().sum()) for key in found},
    "gap": gap,
}))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stores of two levels, images of two sizes, a twin and a removed image."""
    folder = tmp_path_factory.mktemp("world")
    write_params(folder, {**SMALLEST, **PHOTOS, "embed.levels": list(LEVELS)})
    add_photos(folder)
    day, dusk = (folder / "photos" / name for name in ("day", "dusk"))
    for kind in ("images", "labels"):
        small = day / kind / f"{Path(SMALL).name}.png"
        Image.open(small).crop((0, 0, 84, 60)).save(small)
    (dusk / "images" / "00000.png").write_bytes(
        (day / "images" / f"{Path(TWIN).name}.png").read_bytes()
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        demand("prepare")
        demand("embed", "-S", "embed.splits=[train, val]")  # from now on without val
        for kind in ("images", "labels"):
            (day / kind / f"{Path(REMOVED).name}.png").unlink()
        demand("prepare")
        demand("embed")
    return folder


@pytest.fixture(scope="module")
def executed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """The notebook after it ran in its own folder, with its parameters pointed at the world."""
    notebook: nbformat.NotebookNode = nbformat.read(NOTEBOOK, 4)  # type: ignore[no-untyped-call]
    (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    parameters.source += f"\nROOT = {str(world)!r}"
    probe = nbformat.v4.new_code_cell(PROBE)  # type: ignore[no-untyped-call]
    notebook.cells.append(probe)
    sockets = tmp_path_factory.mktemp("ipc")  # no ports, which other tests take meanwhile
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        config=Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/k"}),
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        asyncio.run(client.async_execute())
    return notebook


@pytest.fixture(scope="module")
def numbers(executed: nbformat.NotebookNode) -> dict[str, Any]:
    (output,) = executed.cells[-1].outputs
    found: dict[str, Any] = json.loads(output.text)
    return found


def features(domain: str, level: str, world: Path) -> dict[str, NDArray[np.float64]]:
    """Read all features (C, h, w) of the images of a domain, as training does."""
    reader = FeatureReader(the_store(domain, world))
    ids = [slot.image.image_id for slot in reader.header.slots if slot.live]
    return {
        name: reader.window(name, level, 0, 0, *reader.size_tok(name, level)).astype(np.float64)
        for name in ids
    }


def test_it_is_committed_without_outputs() -> None:
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_no_cell_warns_and_the_pictures_show_something(executed: nbformat.NotebookNode) -> None:
    outputs = [output for cell in executed.cells for output in cell.get("outputs", ())]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    shown = [output.data for output in outputs if "data" in output]
    pictures = [
        np.asarray(Image.open(BytesIO(base64.b64decode(data["image/png"]))))
        for data in shown
        if "image/png" in data
    ]
    assert len(pictures) == 3
    assert all(picture.std() > 20 for picture in pictures)
    assert any("UNTRAINED TEACHER" in data.get("text/markdown", "") for data in shown)
