"""The notebook runs as a person runs it."""

import asyncio
import base64
import json
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image
from traitlets.config import Config

from tests.pipeline.workplace import (
    PHOTOS,
    REPOSITORY,
    SMALLEST,
    add_photos,
    demand,
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
