"""`ssr doctor` finds each fault of the installation and of DVC, and never fails itself."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import doctor as examiner
from pipeline.doctor import Finding, attempt
from tests.pipeline.test_doctor import doctor
from tests.pipeline.workplace import REPOSITORY


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
