"""`ssr doctor` finds each fault of installation, params, data and stores, and names its cure."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import doctor as examiner
from pipeline.doctor import Finding, attempt, examine
from tests.pipeline.mistakes import Case, identifier, remove
from tests.pipeline.workplace import REPOSITORY, shard, ssr, stored, the_store


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
        "manifest of other datasets",
        "-S prepare.source.exclude=[day/images/00000]",
        ("data/manifest.parquet", "another prepare.source.exclude", "ssr prepare"),
    ),
    Case(
        "crop larger than the images",
        "-S prepare.pad_to_px=96 -S train.crop_px=96",
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
        (
            "train.student.weights: mit_b0",
            "is not a file, a folder or a Hugging Face id",
            "correct it",
        ),
    ),
    Case(
        "no student to start from",
        "-S train.init=runs/warm/student",
        ("train.init: runs/warm/student/config.json", "missing", "train that student"),
    ),
    Case(
        "store of another teacher",
        "-S embed.precision=bfloat16",
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
    monkeypatch.setattr("pipeline.doctor.find_spec", lambda name: None)
    (line,) = doctor("-S", "store.url=s3://bucket/features").problem
    assert line == "store.url: s3://bucket/features needs s3fs: `pip install -e '.[s3]'`"


@pytest.mark.usefixtures("photos")
def test_a_disk_without_room_is_a_problem_unless_all_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.plan.free_bytes", lambda url: 1000)
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


@pytest.mark.usefixtures("workplace", "no_gpu")
def test_a_gpu_that_pytorch_does_not_see_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examiner, "device_here", lambda: "Some GPU")
    assert any("sees no GPU, but there is Some GPU: install" in line for line in doctor().warning)


@pytest.mark.usefixtures("workplace")
def test_pytorch_that_cannot_be_imported_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert doctor().problem[0].startswith("PyTorch cannot be imported (ModuleNotFoundError: ")


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "torchvision can be imported"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "::nms does not exist)"),
        ("import os; os.abort()", "pip uninstall torchvision"),
    ],
)
def test_a_broken_torchvision_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, says: str
) -> None:
    packages = tmp_path / "packages"
    (packages / "torchvision").mkdir(parents=True)
    (packages / "torchvision" / "__init__.py").write_text(content)
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("PYTHONPATH", str(packages))
    said = doctor()
    (line,) = [line for line in said.ok + said.problem if "torchvision" in line]
    assert says in line
    assert (line in said.problem) == bool(content)
    assert "torchvision" not in sys.modules


def dvc_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[str, str]]:
    """Make a git and DVC repository; return what the doctor says of it: mark and line."""
    monkeypatch.chdir(folder)
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    (folder / ".dvc" / "tmp").mkdir(parents=True)
    (folder / ".git").mkdir()

    def find() -> tuple[str, str]:
        (found,) = examiner.dvc()
        return found.mark, found.text

    return find


def test_what_dvc_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = dvc_of(tmp_path, monkeypatch)
    assert find() == ("ok", "DVC: dvc.yaml, .dvc and git are there")
    (tmp_path / ".git").rmdir()
    assert find()[0] == "warning"
    assert "not a git repository: run `git init`" in find()[1]
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")
    assert find()[0] == "ok"
    shutil.rmtree(tmp_path / ".dvc")
    assert "run `dvc init`" in find()[1]
    (tmp_path / "dvc.yaml").unlink()
    assert find()[1].startswith("no dvc.yaml in this folder")


@pytest.mark.parametrize(
    ("noted", "mark"), [("", "problem"), ("[]", "problem"), ("{}", "ok"), ('{"read": {}}', "ok")]
)
def test_a_damaged_lock_of_dvc_is_to_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: str, mark: str
) -> None:
    find = dvc_of(tmp_path, monkeypatch)
    (tmp_path / ".dvc" / "tmp" / "rwlock").write_text(noted)
    assert find()[0] == mark
    assert ("delete it" in find()[1]) == (mark == "problem")


@pytest.mark.parametrize(
    ("lock", "says"),
    [
        (
            "stages:\n<<<<<<< HEAD\n  a: 1\n=======\n  a: 2\n>>>>>>> other\n",
            "a conflict of git: take",
        ),
        ("schema: '2.0'\nstages: [\n", "is damaged: restore it"),
        ("", "is damaged: restore it"),
        ("[" * 2000, "is damaged: restore it"),
    ],
)
def test_a_lock_that_dvc_cannot_read_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str, says: str
) -> None:
    find = dvc_of(tmp_path, monkeypatch)
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    assert find()[0] == "ok"
    (tmp_path / "dvc.lock").write_text(lock)
    assert find()[0] == "problem"
    assert f"dvc.lock {'holds ' if 'git' in says else ''}{says}" in find()[1]


def test_a_check_that_fails_itself_is_a_finding() -> None:
    assert attempt(lambda: 1 // 0) == Finding(
        "problem",
        "a check failed, please report it (ZeroDivisionError: integer division or modulo by zero)",
    )


@pytest.mark.usefixtures("workplace")
def test_a_package_that_cannot_be_imported_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pipeline.checks", None)
    (line,) = doctor().problem
    assert line.startswith("a package cannot be imported (ModuleNotFoundError: ")
    assert line.endswith("run `pip install -e .` again")
