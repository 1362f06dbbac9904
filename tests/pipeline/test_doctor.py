"""`ssr doctor` finds faults of installation, params, data and stores, and names their cure."""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.doctor import examine
from tests.pipeline.mistakes import Mistake, leave_it
from tests.pipeline.workplace import change_params, shard, ssr, stored


def doctor(*overrides: str) -> dict[str, list[str]]:
    """What the doctor says, by mark."""
    said: dict[str, list[str]] = defaultdict(list)
    for mark, text in examine(Path("params.yaml"), overrides):
        said[mark].append(text)
    return said


def put_a_file_in_place_of_the_results() -> None:
    shutil.rmtree("runs")
    Path("runs").touch()


FAULTS: dict[str, Mistake] = {
    "no data folder": (
        "prepare.source.root=nowhere",
        ("prepare.source.root: nowhere",),
        leave_it,
    ),
    "images moved away": (
        "",
        ("photos/day/images/00000.png", "ssr prepare"),
        lambda: shutil.rmtree("photos/day/images"),
    ),
    "no teacher weights, nothing embedded": (
        "embed.teacher.weights=sam.pth",
        ("sam.pth", "no such weight file", "download it"),
        Path("data/index.json").unlink,
    ),
    "no student weights": (
        "train.student.weights=weights/mit_b0.pth",
        ("train.student.weights: weights/mit_b0.pth", "does not exist", "correct the path"),
        leave_it,
    ),
    "shard deleted": (
        "",
        ("shard 1 of stride8", "data/features/target/", "ssr embed"),
        lambda: shard("target", 1).unlink(),
    ),
    "results folder that is a file": (
        "",
        ("runs", "not a folder that can be written to"),
        put_a_file_in_place_of_the_results,
    ),
}


def test_after_the_whole_walk_nothing_is_wrong(photos: Path) -> None:
    before = stored(photos)
    outcome = ssr("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    said = doctor()
    assert "problem" not in said
    assert len(outcome.out.splitlines()) == len(said["ok"]) + len(said["warning"])
    assert [line.partition(":")[0] for line in said["warning"]] == [
        "no dvc.yaml and .dvc in this folder",
        "embed.teacher.weights is random, an UNTRAINED TEACHER",
    ]
    assert "data/manifest.parquet: 6 of source, 8 of target, 0 left out" in said["ok"]
    assert sum("every training image is in data/features/" in line for line in said["ok"]) == 2
    assert stored(photos) == before


@pytest.mark.parametrize(("override", "says", "spoil"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_a_problem_with_its_cure(
    override: str, says: tuple[str, ...], spoil: Callable[[], object], photos: Path
) -> None:
    spoil()
    before = stored(photos)
    problems = doctor(*override.split())["problem"]
    assert any(all(part in line for part in says) for line in problems), problems
    assert not any("report it" in line for line in problems), problems
    assert stored(photos) == before


@pytest.mark.usefixtures("photos")
def test_a_machine_that_only_trains_needs_no_teacher() -> None:
    index = json.loads(Path("data/index.json").read_text())
    for entry in index["stores"].values():  # as if a checkpoint had made it
        entry["provenance"]["teacher"]["trained"] = True
    Path("data/index.json").write_text(json.dumps(index))
    change_params(Path(), {"embed.teacher.weights": "sam.pth"})
    said = doctor()
    assert "problem" not in said
    assert any("sam.pth" in each and "only embedding needs it" in each for each in said["warning"])
