"""What is noted beside a trained student."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages.student.student import load_student
from stages.train.stage import _without_folder
from tests.train.world import World

OFF = {"on": [], "levels": [None] * 4}


def train(world: World, out: Path, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return load_student(world.run(out, iterations=1, regularizer=OFF, **changes).student)[1]


def test_data_and_recipe_travel_with_the_student(world: World, tmp_path: Path) -> None:
    meta = train(world, tmp_path, seed=3)
    assert meta["data"] == {
        "source": {"train_images": 6, "kind": "drawn", "fit_px": [120, 60]},
        "target": {"train_images": 6, "kind": "drawn", "fit_px": None},
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
    assert _without_folder(weights) == noted
