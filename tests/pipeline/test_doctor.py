"""`ssr doctor` finds faults of installation, params, data and stores, and names their cure."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.doctor import examine
from tests.pipeline.mistakes import Case, identifier, params, remove
from tests.pipeline.workplace import shard, ssr, stored

PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class Said:
    """What the doctor said, by mark."""

    ok: list[str]
    warning: list[str]
    problem: list[str]


def doctor(*overrides: str) -> Said:
    said = Said([], [], [])
    for mark, text in examine(PARAMS, overrides):
        getattr(said, mark).append(text)
    return said


def put_a_file_in_place_of_the_results() -> None:
    shutil.rmtree("runs")
    Path("runs").touch()


CASES = [
    Case("no data folder", "prepare.source.root=nowhere", ("prepare.source.root: nowhere",)),
    Case(
        "images moved away",
        "",
        ("photos/day/images/00000.png", "ssr prepare"),
        remove("photos/day/images"),
    ),
    Case(
        "no teacher weights, nothing embedded",
        "embed.teacher.weights=sam.pth",
        ("sam.pth", "no such weight file", "download it"),
        remove("data/index.json"),
    ),
    Case(
        "no student weights",
        "train.student.weights=weights/mit_b0.pth",
        ("train.student.weights: weights/mit_b0.pth", "does not exist", "correct the path"),
    ),
    Case(
        "no student to start from",
        "train.init=runs/warm/student",
        ("runs/warm/student/config.json", "missing", "ssr train"),
    ),
    Case(
        "store of another teacher",
        "embed.precision=bfloat16",
        ("data/index.json", "another precision", "ssr embed"),
    ),
    Case(
        "shard deleted",
        "",
        ("shard 1 of stride8", "data/features/target/", "ssr embed"),
        lambda: shard("target", 1).unlink(),
    ),
    Case(
        "results folder that is a file",
        "",
        ("runs", "not a folder that can be written to"),
        put_a_file_in_place_of_the_results,
    ),
]


def test_after_the_whole_walk_nothing_is_wrong(photos: Path) -> None:
    before = stored(photos)
    outcome = ssr("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    said = doctor()
    assert said.problem == []
    assert len(outcome.out.splitlines()) == len(said.ok) + len(said.warning)
    assert [line.partition(":")[0] for line in said.warning] == [
        "no dvc.yaml and .dvc in this folder",
        "embed.teacher.weights is random, an UNTRAINED TEACHER",
    ]
    assert "data/manifest.parquet: 6 of source, 8 of target, 0 left out" in said.ok
    assert sum("every training image is in data/features/" in line for line in said.ok) == 2
    assert stored(photos) == before


@pytest.mark.parametrize("case", CASES, ids=identifier)
def test_a_fault_is_a_problem_with_its_cure(case: Case, photos: Path) -> None:
    case.spoil()
    before = stored(photos)
    problems = doctor(*case.command.split()).problem
    assert any(all(part in line for part in case.says) for line in problems), problems
    assert not any("report it" in line for line in problems), problems
    assert stored(photos) == before


def test_a_problem_ends_with_exit_code_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = ssr("doctor")
    assert outcome.code == 2
    assert "problem params.yaml: there is no such file" in outcome.out
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("photos")
def test_a_machine_that_only_trains_needs_no_teacher() -> None:
    index = json.loads(Path("data/index.json").read_text())
    for entry in index["stores"].values():  # as if a checkpoint had made it
        entry["provenance"]["teacher"]["trained"] = True
    Path("data/index.json").write_text(json.dumps(index))
    params(embed={"teacher.weights": "sam.pth"})()
    said = doctor()
    assert said.problem == []
    assert any("sam.pth" in line and "only embedding needs it" in line for line in said.warning)
