"""The whole walk through the commands, on the smallest drawn world."""

import shutil
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.pipeline.workplace import (
    SMALLEST,
    change_params,
    demand,
    stored,
    the_store,
    times,
    write_params,
)

UNTRAINED = "UNTRAINED TEACHER"


@dataclass(frozen=True)
class Walk:
    """What the commands printed, and the folder they left."""

    folder: Path
    said: dict[str, str]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    folder = tmp_path_factory.mktemp("walk")
    write_params(folder, SMALLEST)
    with chdir(folder):
        said = {name: demand(name) for name in ("prepare", "embed", "train", "evaluate", "metrics")}
        said["inspect"] = demand("inspect", str(the_store("source")))
    return Walk(folder, said)


@pytest.fixture
def after(walk: Walk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of what the walk left."""
    shutil.copytree(walk.folder, tmp_path / "after")
    monkeypatch.chdir(tmp_path / "after")
    return tmp_path / "after"


def test_every_stage_leaves_its_files(walk: Walk) -> None:
    left = set(times(walk.folder))
    assert {
        "data/manifest.parquet",
        "data/index.json",
        "runs/checkpoint.pt",
        "runs/curves.csv",
        "runs/student/model.safetensors",
        "runs/student/config.json",
        "runs/metrics.json",
        "runs/per_class.csv",
    } <= left
    assert sum(name.startswith("runs/pictures/") for name in left) == 2
    assert sum("/stride8/c." in name for name in left) == 4


def test_every_stage_says_what_it_did(walk: Walk) -> None:
    assert "data/manifest.parquet: written" in walk.said["prepare"]
    assert "target train       6       0      64 x 128      64 x 128" in walk.said["prepare"]
    assert "target: 6 images in data/features/target/" in walk.said["embed"]
    assert "6 embedded now" in walk.said["embed"]
    assert "student in runs/student" in walk.said["train"]
    assert "bicycle" in walk.said["evaluate"]
    assert "image | label | prediction: runs/pictures" in walk.said["evaluate"]
    assert walk.said["metrics"] in walk.said["evaluate"]
    assert "6 images of the source, complete" in walk.said["inspect"]
    assert "6 x 64 x 8 x 16" in walk.said["inspect"]


@pytest.mark.parametrize("command", ["train", "evaluate", "metrics", "inspect"])
def test_an_untrained_teacher_is_named(walk: Walk, command: str) -> None:
    assert UNTRAINED in walk.said[command]


def test_a_second_walk_recomputes_nothing(after: Path) -> None:
    content, written = stored(after), times(after)
    assert "data/manifest.parquet: unchanged" in demand("prepare")
    assert demand("embed").count(" 0 embedded now") == 2
    assert "resumed after 4 of 4 steps" in demand("train")
    demand("evaluate")
    assert stored(after) == content
    again = times(after)
    for name in content:  # train and evaluate write equal bytes; nothing before them writes at all
        if not name.startswith("runs/") or name == "runs/checkpoint.pt":
            assert again[name] == written[name], name


def test_a_run_of_its_own_folder_leaves_the_others_alone(after: Path) -> None:
    before = stored(after)
    shutil.rmtree("data/features")
    Path("data/index.json").unlink()
    said = demand("train", "-S", "train.regularizer.on=[]", "--out", "runs/daformer")
    assert UNTRAINED not in said
    said = demand("evaluate", "--out", "runs/daformer")
    assert UNTRAINED not in said
    assert "runs/daformer/metrics.json: 2 images" in said
    now = stored(after)
    assert {name: now[name] for name in before if name.startswith("runs/")} == {
        name: digest for name, digest in before.items() if name.startswith("runs/")
    }


def test_metrics_are_shown_where_the_student_is_not(after: Path) -> None:
    shutil.rmtree("runs/student")  # metrics.json travels with git, the student by `dvc pull`
    said = demand("metrics")
    assert "mean IoU" in said
    assert UNTRAINED in said


def test_an_incomplete_store_is_called_that(after: Path) -> None:
    next(the_store("source").glob("stride8/c.1.*")).unlink()
    said = demand("inspect", str(the_store("source")))
    assert "INCOMPLETE: run `ssr embed`" in said
    assert "1/2" in said


def test_the_source_alone_is_enough_without_self_training(after: Path) -> None:
    alone = {
        "prepare.target": None,
        "embed.domains": ["source"],
        "train.self_training": None,
        "train.regularizer.on": ["source"],
        "evaluate.domain": "source",
    }
    change_params(after, alone)
    demand("prepare")
    demand("embed")
    demand("train", "--out", "runs/alone")
    assert "2 images" in demand("evaluate", "--out", "runs/alone")
