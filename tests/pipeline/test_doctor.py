"""`ssr doctor` finds each fault of params, data and stores, and names its cure."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.doctor import examine
from tests.pipeline.mistakes import (
    Case,
    cut_in_half,
    identifier,
    remove,
    write,
)
from tests.pipeline.workplace import shard, ssr, stored, the_store


@dataclass(frozen=True)
class Said:
    """What the doctor said, by mark."""

    code: int
    ok: list[str]
    warning: list[str]
    problem: list[str]


def doctor(*words: str) -> Said:
    outcome = ssr("doctor", *words)
    assert "Traceback" not in outcome.out + outcome.err
    lines = outcome.out.splitlines()
    found = {
        mark: [line[8:] for line in lines if line.startswith(f"{mark:<7} ")]
        for mark in ("ok", "warning", "problem")
    }
    assert sum(map(len, found.values())) == len(lines), outcome.out
    assert outcome.code == (2 if found["problem"] else 0), outcome
    assert outcome.err.count("\n") == bool(found["problem"]), outcome
    return Said(outcome.code, **found)


def spoil_the_store() -> None:
    metadata = the_store("source") / "zarr.json"
    metadata.unlink()
    metadata.mkdir()


def put_a_file_in_place_of_the_results() -> None:
    shutil.rmtree("runs")
    Path("runs").write_text("")


CASES = [
    Case("no params", "", ("params.yaml", "no such file", "ssr init"), remove("params.yaml")),
    Case("damaged params", "", ("params.yaml", "YAML", "mend"), write("prepare: [\n")),
    Case(
        "no data folder",
        "-S prepare.source.root=nowhere",
        ("prepare.source.root: nowhere", "no such folder", "correct the path"),
    ),
    Case(
        "images moved away",
        "",
        ("photos/day/images/00000.png", "put the data back", "ssr prepare"),
        remove("photos/day/images"),
    ),
    Case(
        "damaged manifest",
        "",
        ("data/manifest.parquet", "damaged", "ssr prepare"),
        cut_in_half("data/manifest.parquet"),
    ),
    Case(
        "manifest of other datasets",
        "-S prepare.source.exclude=[day/images/00000]",
        ("data/manifest.parquet", "another prepare.source.exclude", "ssr prepare"),
    ),
    Case(
        "crop larger than the images",
        "-S train.crop_px=96",
        ("train.crop_px 96", "64x128", "ssr prepare"),
    ),
    Case(
        "no teacher weights, nothing embedded",
        "-S embed.teacher.weights=sam.pth",
        ("embed.teacher.weights: sam.pth", "no such weight file", "download it"),
        remove("data/index.json"),
    ),
    Case(
        "no student weights",
        "-S train.student.weights=mit_b0.pth",
        ("train.student.weights: mit_b0.pth", "does not exist", "correct the path"),
    ),
    Case(
        "student weights by a name that is none",
        "-S train.student.weights=mit_b0",
        ("train.student.weights: mit_b0", "no file or folder", "no Hugging Face id", "correct it"),
    ),
    Case(
        "no student to start from",
        "-S train.init=runs/warm/student",
        ("train.init: runs/warm/student/config.json", "missing", "train that student"),
    ),
    Case(
        "damaged index",
        "",
        ("data/index.json", "no index of features", "ssr embed"),
        cut_in_half("data/index.json"),
    ),
    Case(
        "store of another teacher",
        "-S embed.precision=bfloat16",
        ("data/index.json", "another precision", "ssr embed"),
    ),
    Case(
        "store moved away",
        "",
        ("data/features/source/", "no feature store", "ssr embed"),
        remove("data/features/source"),
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
        ("runs", "in a folder's place", "move it away"),
        put_a_file_in_place_of_the_results,
    ),
    Case(
        "store folder that is a file",
        "-S store.url=params.yaml",
        ("params.yaml", "in a folder's place", "move it away"),
    ),
]


def test_after_the_whole_walk_nothing_is_wrong(photos: Path) -> None:
    before = stored(photos)
    said = doctor()
    assert said.problem == []
    assert [line.split(":")[0] for line in said.warning] == [
        "no dvc.yaml in this folder",
        "embed.teacher.weights is random, an UNTRAINED TEACHER",
    ]
    assert "data/manifest.parquet: 6 of source, 8 of target" in said.ok
    stores = [line for line in said.ok if " store: " in line]
    assert [line.partition(" in ")[0] for line in stores] == [
        "source store: 6 images at stride8",
        "target store: 6 images at stride8",
    ]
    assert any(line.startswith("room: ") and "needed" not in line for line in said.ok)
    assert stored(photos) == before


@pytest.mark.parametrize("case", CASES, ids=identifier)
def test_a_fault_is_a_problem_with_its_cure(case: Case, photos: Path) -> None:
    case.spoil()
    before = stored(photos)
    problems = doctor(*case.command.split()).problem
    assert any(all(part in line for part in case.says) for line in problems), problems
    assert not any("please report" in line for line in problems), problems
    assert stored(photos) == before


def test_what_is_looked_at_is_told_before_it_is_found(photos: Path) -> None:
    told: list[str] = []
    order = [
        (finding.text, told[-1]) for finding in examine(photos / "params.yaml", [], told.append)
    ]
    (pytorch,) = (before for text, before in order if "PyTorch" in text)
    assert "PyTorch" in pytorch
    assert all(before for _, before in order)
    assert "params.yaml" in told[-1]


def test_an_empty_folder_lacks_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = doctor()
    assert said.problem == [
        "params.yaml: there is no such file; `ssr init --preset drawn` writes one"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("workplace")
def test_before_the_first_stage_the_next_steps_are_named() -> None:
    said = doctor()
    assert said.problem == []
    assert "data/manifest.parquet: no images are listed yet: run `ssr prepare`" in said.warning
    assert "data/index.json: nothing is embedded yet: run `ssr embed`" in said.warning


@pytest.mark.usefixtures("photos")
def test_training_without_features_needs_no_store() -> None:
    remove("data/index.json", "data/features")()
    said = doctor("-S", "train.regularizer.on=[]")
    assert said.problem == []
    assert "train.regularizer.on is []: no features are read" in said.ok


@pytest.mark.usefixtures("photos")
def test_a_machine_that_only_trains_needs_no_teacher() -> None:
    index = json.loads(Path("data/index.json").read_text())
    for entry in index["stores"].values():  # as if a checkpoint had made it
        entry["provenance"]["teacher"]["trained"] = True
    Path("data/index.json").write_text(json.dumps(index))
    said = doctor("-S", "embed.teacher.weights=sam.pth")
    assert said.problem == []
    assert any("sam.pth" in line and "embedding needs it" in line for line in said.warning)


@pytest.mark.usefixtures("photos", "no_gpu")
def test_a_gpu_that_there_is_not_is_said_of_every_key() -> None:
    said = doctor("-S", "embed.device=cuda", "-S", "train.device=cuda")
    assert [line.split(" ")[0] for line in said.problem] == ["embed.device", "train.device"]
    assert all("no GPU; set it to auto or cpu" in line for line in said.problem)


@pytest.mark.usefixtures("photos")
def test_a_bucket_without_its_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.doctor.work.find_spec", lambda name: None)
    (line,) = doctor("-S", "store.url=s3://bucket/features").problem
    assert line == "store.url: s3://bucket/features needs s3fs: `pip install -e '.[s3]'`"


@pytest.mark.usefixtures("photos")
def test_a_disk_without_room_is_a_problem_unless_all_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.doctor.work.free_bytes", lambda url: 1000)
    assert doctor().problem == []
    remove("data/index.json")()
    said = doctor()
    assert said.problem == []
    assert any(
        "1 KB free" in line and "unless much of it is there" in line for line in said.warning
    )
    remove("data/features")()
    (line,) = doctor().problem
    assert line.startswith("room: 1 KB free at data/features, ")
    assert "needed in all: make room, set store.codec" in line


@pytest.mark.usefixtures("photos")
def test_a_folder_without_permission_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, to whom permissions say nothing.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "runs")
    (line,) = doctor().problem
    assert "runs: cannot be written to: set its permissions" in line
