"""What is noted beside a trained student."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages.prepare.config import PrepareConfig
from stages.student.student import load_student
from stages.train import stage
from stages.train.provenance import without_folder
from tests.train.example import train_config
from tests.train.world import World, silent

OFF = {"on": [], "levels": [None] * 4}


def train(world: World, out: Path, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    domain = {"kind": "camvid", "root": "photos", "splits": {"train": "a", "val": None}}
    sources = PrepareConfig.model_validate(
        {"source": {**domain, "fit_px": None}, "target": {**domain, "fit_px": [1024, 512]}}
    )
    stage.run(
        train_config(iterations=1, regularizer=OFF, **changes),
        manifest_path=world.manifest_path,
        roots=world.roots,
        store_url=world.store_url,
        index_path=world.index_path,
        out=out,
        progress=silent,
        sources=sources.domains,
    )
    return load_student(out / "student")[1]


def test_data_and_recipe_travel_with_the_student(world: World, tmp_path: Path) -> None:
    meta = train(world, tmp_path, seed=3)
    assert meta["data"] == {
        "source": {"train_images": 6, "kind": "camvid", "fit_px": None},
        "target": {"train_images": 6, "kind": "camvid", "fit_px": [1024, 512]},
    }
    assert meta["recipe"]["seed"] == 3
    assert meta["recipe"]["crop_px"] == 64
    assert "workers" not in meta["recipe"]
    assert meta["weights"] == "random"


def test_first_weights_are_remembered_over_generations_and_folders_are_not(
    world: World, tmp_path: Path
) -> None:
    train(world, tmp_path / "first")
    config = tmp_path / "first/student/config.json"
    tree = json.loads(config.read_text())
    tree["meta"]["weights"] = "nvidia/mit-b5"
    del tree["sha256"]  # as the message tells who edits it
    config.write_text(json.dumps(tree))
    meta = train(world, tmp_path / "second", init=str(tmp_path / "first/student"))
    assert meta["weights"] == "nvidia/mit-b5"
    assert meta["recipe"]["init"] == "student"
    assert str(tmp_path) not in (tmp_path / "second/student/config.json").read_text()


@pytest.mark.parametrize(
    ("weights", "noted"),
    [
        ("nvidia/mit-b5", "nvidia/mit-b5"),
        ("pretrained/mit_b5.pth", "pretrained/mit_b5.pth"),
        ("/home/me/mit_b5.pth", "mit_b5.pth"),
        ("~/mit_b5.pth", "mit_b5.pth"),
    ],
)
def test_only_absolute_paths_are_shortened(weights: str, noted: str) -> None:
    assert without_folder(weights) == noted
