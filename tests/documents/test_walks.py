"""What the documents tell people to type is typed: each block in the folder that it asks for."""

import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from examples.drawn.world import draw
from examples.drawn.world.style import Style
from tests.documents.reading import DOCUMENTS, commands_in, shell_blocks
from tests.pipeline.repository import environment
from tests.pipeline.workplace import (
    REPOSITORY,
    SMALLEST,
    add_photo,
    change_params,
    demand,
)
from tests.prepare.conftest import ids, save, save_paletted

SIZE = (64, 128)
STAGES = [
    shlex.split(stage["cmd"])[1:]
    for stage in YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"].values()
]
"""What `dvc repro` runs; that it does is tested beside the pipeline."""

SHORTER = {"train.iterations=1000": "train.iterations=2"}

SMALL: Mapping[str, Any] = {
    **{key: value for key, value in SMALLEST.items() if not key.startswith("prepare.")},
    "prepare.pad_to_px": 64,
    "embed.teacher.weights": "random",
    "train.student.backbone": "mit_tiny",
    "train.student.weights": "random",
    "train.feature_distance": None,
    "train.self_training.start": 0,
    "train.self_training.ignore_top_px": 0,
    "train.self_training.ignore_bottom_px": 0,
    "train.workers": 0,
}
"""What makes a preset small: other networks and less of everything, the same recipe."""


def shrink(params: Path) -> None:
    """Make a preset small, whatever its datasets; a section that its arm leaves out stays out."""
    tree = YAML(typ="safe").load(params)
    changes = {
        key: value
        for key, value in SMALL.items()
        if not (key.startswith("train.self_training.") and tree["train"]["self_training"] is None)
    }
    changes |= {f"prepare.{domain}.fit_px": None for domain in ("source", "target")}
    if tree["embed"]["teacher"]["kind"] == "sam":
        changes["embed.teacher.architecture"] = "tiny"
    if tree["train"]["student"]["norm_eps"] is None:
        changes["train.student.backbone"] = "efficientnet_lite0"
    change_params(params.parent, changes, params.name)


def typed(block: str, **places: Path) -> None:
    """Type a block in the current folder; `places` replace folders that it names."""
    for command in commands_in(block):
        words = [SHORTER.get(word, word) for word in command]
        for name, place in places.items():
            words = [re.sub(rf"^{name}$", str(place), word) for word in words]
        match words:
            case ["ssr", "init", *_]:
                demand(*words[1:])
                named = words[words.index("--params") + 1] if "--params" in words else "params.yaml"
                shrink(Path(named))
            case ["ssr", *rest]:
                demand(*rest)
            case ["dvc", "repro"]:
                for stage in STAGES:
                    demand(*stage)
            case _:
                subprocess.run(words, check=True, env=environment(Path.cwd()), timeout=300)


def block_with(beginning: str) -> str:
    """The first block of the documents that begins so: the README's, if it has one."""
    return next(
        block
        for document in DOCUMENTS
        for block in shell_blocks(document)
        if block.startswith(beginning)
    )


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_your_own_data(empty: Path) -> None:
    mine, theirs = empty / "mine", empty / "theirs"
    for index in range(3):
        add_photo(mine / "train", index, "day")
        add_photo(theirs / "train", index + 3, "dusk")
        add_photo(theirs / "val", index + 6, "dusk")
    typed(block_with("ssr init --preset folders"), **{"/data/mine": mine, "/data/theirs": theirs})
    typed(block_with("dvc repro"))
    assert Path("runs/report.html").is_file()


def test_the_papers_setting(empty: Path) -> None:
    for index in range(3):
        add_photo(empty / "data/gta5", index, "day")
        save_paletted(empty / "data/gta5/labels" / f"{index:05d}.png", ids(7, 26, 11, size=SIZE))
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau")):
        frame = f"{city}_000000_000019"
        image = empty / f"data/cityscapes/leftImg8bit/{split}/{city}/{frame}_leftImg8bit.png"
        save(image, draw(seed=1, index=len(city), style="dusk", size_px=SIZE)[0])
        label = empty / f"data/cityscapes/gtFine/{split}/{city}/{frame}_gtFine_labelIds.png"
        save(label, ids(7, 26, 11, size=SIZE))
    typed(block_with("ssr init --preset gta5-to-cityscapes"))
    assert "mIoU" in Path("runs/report.html").read_text()


def test_arms_are_compared(empty: Path) -> None:
    for index in range(16):
        split = "train" if index % 8 < 6 else "val"
        style: Style = "day" if index < 8 else "dusk"
        add_photo(empty / "camvid" / f"{style}_{split}", index, style)
    typed(block_with("for arm in source-only"), DIR=empty / "camvid")
    assert {path.parent.name for path in empty.glob("runs/*/metrics.json")} == {"daformer", "ssr"}
