"""A folder to work in: the smallest parameters that use everything, and `ssr` run inside it."""

import hashlib
import shlex
import shutil
import sys
from collections.abc import Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from ruamel.yaml import YAML

from examples.drawn.world import draw
from examples.drawn.world.style import Style
from pipeline.cli import main
from pipeline.presets import render

HEIGHT_PX, WIDTH_PX = 64, 128
REPOSITORY = Path(__file__).parents[2]

SMALLEST: Mapping[str, Any] = {
    **{f"prepare.{domain}.height_px": HEIGHT_PX for domain in ("source", "target")},
    **{f"prepare.{domain}.width_px": WIDTH_PX for domain in ("source", "target")},
    **{f"prepare.{domain}.train": 6 for domain in ("source", "target")},
    **{f"prepare.{domain}.val": 2 for domain in ("source", "target")},
    "prepare.target.strength": 1.0,
    "prepare.pad_to_px": 64,
    "store.shard_images": 4,
    "embed.splits": ["train"],
    "embed.teacher.weights": "random",
    "embed.device": "cpu",
    "train.init": None,
    "train.iterations": 4,
    "train.batch_size": 2,
    "train.crop_px": 64,
    "train.student.head": "daformer",
    "train.student.head_channels": 16,
    "train.self_training.start": 2,
    "train.rare_class_sampling.min_pixels": 0,
    "train.device": "cpu",
    "train.log_every": 2,
    "train.checkpoint_every": 2,
    "train.validate_every": 2,
    "evaluate.pictures": 2,
    "evaluate.device": "cpu",
}
"""Changes of the preset `drawn`: two shards per domain, four steps, self-training in two."""

PHOTOS: Mapping[str, Any] = {
    "prepare.source": {
        "kind": "camvid",
        "root": "photos",
        "fit_px": None,
        "splits": {"train": "day", "val": None},
        "exclude": [],
    },
    "prepare.target": {
        "kind": "camvid",
        "root": "photos",
        "fit_px": None,
        "splits": {"train": "dusk", "val": "dusk_val"},
        "exclude": [],
    },
}
"""The same world as files that a test may spoil: drawn images in the layout of CamVid."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


def ssr(*arguments: str) -> Outcome:
    """Run the command line in this process and the current folder; a traceback fails the test."""
    out, err = StringIO(), StringIO()
    with (
        mock.patch.object(sys, "argv", ["ssr", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    code = ended.value.code
    return Outcome(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


def demand(*arguments: str) -> str:
    """Run a command that must succeed without a word on stderr; return what it printed."""
    outcome = ssr(*arguments)
    assert (outcome.code, outcome.err) == (0, ""), outcome
    return outcome.out


def made(folder: Path, params: Mapping[str, Any], *commands: str) -> Path:
    """Run commands that must succeed in a folder with these params; return the folder."""
    write_params(folder, params)
    with chdir(folder):
        for command in commands:
            demand(*shlex.split(command))
    return folder


def enter_copy(of: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a copy of a folder, free to be spoilt, the current folder; return it."""
    shutil.copytree(of, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def write_params(folder: Path, changes: Mapping[str, Any], preset: str = "drawn") -> None:
    """Write the params file of a preset with some dotted keys changed."""
    (folder / "params.yaml").write_text(render(preset, roots={}))
    change_params(folder, changes)


def change_params(folder: Path, changes: Mapping[str, Any], name: str = "params.yaml") -> None:
    """Change dotted keys of a params file, as a person does in an editor."""
    path = folder / name
    yaml = YAML()
    tree = yaml.load(path)
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = tree
        for name in sections:
            section = section[name]
        section[last] = value
    yaml.dump(tree, path)


def add_photo(split: Path, index: int, style: Style) -> None:
    """Draw an image and its label into `<split>/images` and `<split>/labels`."""
    image, label = _drawn(index, style)
    for kind, pixels in (("images", image), ("labels", label)):
        (split / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(split / kind / f"{index:05d}.png")


def add_photos(folder: Path) -> None:
    """Draw the six, six and two images that `PHOTOS` names."""
    styles: tuple[tuple[str, Style, range], ...] = (
        ("day", "day", range(6)),
        ("dusk", "dusk", range(6, 12)),
        ("dusk_val", "dusk", range(12, 14)),
    )
    for split, style, indices in styles:
        for index in indices:
            add_photo(folder / "photos" / split, index, style)


def stored(folder: Path) -> dict[str, str]:
    """Hash everything that a command could lose: manifest, index, stores, checkpoints, results.

    Left out are two caches, which only save time, the notes of what it cost, and the files that
    name a writer.
    """
    ignored = {"scan-cache.parquet", "writer.json", "costs.jsonl"}
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for place in ("data", "runs")
        for path in sorted((folder / place).rglob("*"))
        if path.is_file() and path.name not in ignored and path.parent.name != "leases"
    }


def times(folder: Path) -> dict[str, int]:
    """Say when each file below a folder was written last."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def the_store(domain: str, folder: Path = Path()) -> Path:
    """Return the only store of a domain."""
    (path,) = (folder / "data" / "features" / domain).glob("*.zarr")
    return path


def shard(domain: str, number: int, level: str = "stride8") -> Path:
    """Return a shard file of the only store of a domain."""
    return the_store(domain) / level / f"c.{number}.0.0.0"


@cache
def _drawn(index: int, style: Style) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return draw(seed=1, index=index, style=style, size_px=(HEIGHT_PX, WIDTH_PX))
