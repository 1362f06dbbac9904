import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from stages.student.student import Student
from stages.train.state import FORMAT, TrainingState
from store.errors import CheckpointError
from tests.train.example import MASKING, train_config
from tests.train.world import World, assert_same, results

REPOSITORY = Path(__file__).parents[2]

CPU = torch.device("cpu")

FINGERPRINT = "f" * 64

SETTINGS: dict[str, Any] = {
    "iterations": 6,
    "checkpoint_every": 4,
    "validate_every": 2,
    "log_every": 3,
    "self_training": {"start": 1},
    "student": {"drop_path": 0.3, "dropout": 0.3},
    "masking": MASKING,
}

LOADING = "in the middle of a checkpoint, with loader processes"

KILLS: dict[str, tuple[str, int, int | None]] = {
    "between an update and its checkpoint": ("update", 4, 2),
    "in the middle of a checkpoint": ("save", 2, 2),
    LOADING: ("save", 2, 2),
    "before the first checkpoint takes its place": ("before checkpoint.pt", 1, None),
    "between curves and checkpoint": ("after curves.csv", 3, 2),
    "between a checkpoint and the best student that it knows": ("after checkpoint.pt", 2, 4),
    "between the best student's weights and its card": ("after model.safetensors", 2, 4),
    "between the student's weights and its card": ("after model.safetensors", 5, 6),
}

"""Name -> event and its count at which the process kills itself, and where the next one resumes."""


def updated(world: World, seed: int) -> TrainingState:
    """A state after one update with made-up gradients."""
    state = world.state(train_config(seed=seed))
    generator = torch.Generator().manual_seed(seed)
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    state.optimizer.step()
    state.curves.add({"clean": torch.tensor(2.0)})
    state.curves.close_row(iteration=1, lr=0.1)
    state.curves.add({"clean": torch.tensor(3.0)})
    return state


@pytest.mark.parametrize("room", [0, 10**5], ids=lambda room: f"{room} bytes")
def test_a_disk_that_fills_up_is_named_and_keeps_the_old_checkpoint(
    world: World, tmp_path: Path, room: int
) -> None:
    path = tmp_path / "checkpoint.pt"
    updated(world, 1).save(path, iteration=7, fingerprint=FINGERPRINT)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # the kernel's own error, any user's
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            updated(world, 2).save(path, iteration=8, fingerprint=FINGERPRINT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(path)
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(("version", "fingerprint"), [(FORMAT, "e" * 64), (99, FINGERPRINT)])
def test_a_checkpoint_of_another_run_or_format_is_refused(
    world: World, tmp_path: Path, version: int, fingerprint: str
) -> None:
    path, state = tmp_path / "checkpoint.pt", updated(world, 2)
    torch.save({"format": version, "fingerprint": fingerprint}, path)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is of another run; give another"):
        state.load(path, fingerprint=FINGERPRINT, device=CPU)
    assert_same(state.models.student.state_dict(), updated(world, 2).models.student.state_dict())


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_bit(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        tensor = max(archive.infolist(), key=lambda record: record.file_size)
    data = bytearray(path.read_bytes())
    data[tensor.header_offset + tensor.file_size // 2] ^= 1
    path.write_bytes(data)


def save_something_else(path: Path) -> None:
    torch.save([1, 2, 3], path)


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, save_something_else])
def test_a_damaged_checkpoint_is_refused_in_one_line(
    world: World, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "checkpoint.pt"
    updated(world, 1).save(path, iteration=7, fingerprint=FINGERPRINT)
    damage(path)
    with pytest.raises(CheckpointError, match=r"damaged .*; delete it to train anew") as caught:
        updated(world, 2).load(path, fingerprint=FINGERPRINT, device=CPU)
    assert str(caught.value).startswith(f"{path} is a damaged checkpoint (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reads", "error"),
    [
        ("zipfile.ZipFile.testzip", OSError(errno.EIO, "Input/output error")),
        ("torch.load", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")),
    ],
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: str, error: Exception
) -> None:
    path = tmp_path / "checkpoint.pt"
    updated(world, 1).save(path, iteration=7, fingerprint=FINGERPRINT)
    monkeypatch.setattr(reads, mock.Mock(side_effect=error))
    with pytest.raises(CheckpointError, match="may well be sound") as caught:
        updated(world, 2).load(path, fingerprint=FINGERPRINT, device=CPU)
    assert str(path) in str(caught.value)
    assert "damaged" not in str(caught.value)


@pytest.fixture(scope="module")
def killed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run, and one for each of `KILLS` that was killed and then run again.

    In a process that forks: this one has threads by now.
    """
    out = tmp_path_factory.mktemp("killed")
    code = "import sys; from tests.train import test_state as t; t.kill_at_events(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(world.folder), str(out)]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=600)
    return out


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_ends_in_the_bits_of_an_undisturbed_one(killed: Path, name: str) -> None:
    resumed = (killed / name / "resumed").read_text()
    assert resumed == str(KILLS[name][2])
    assert_same(results(killed / name), results(killed / "undisturbed"))


def test_loader_processes_end_with_a_killed_run(killed: Path) -> None:
    loaders = (killed / LOADING / "loaders").read_text().split()
    assert len(loaders) == 2
    deadline = time.monotonic() + 10
    while any(Path("/proc", pid).exists() for pid in loaders):
        assert time.monotonic() < deadline, loaders
        time.sleep(0.05)


def kill_at_events(world: str, out: str) -> None:
    """Kill one run at each event of `KILLS`, and run it again."""
    torch.set_num_threads(1)
    os.fsync = lambda fd: None
    assert fork(lambda: train(world, Path(out) / "undisturbed")) == 0
    for name, (event, count, _) in KILLS.items():
        folder = Path(out) / name

        def doomed(folder: Path = folder, event: str = event, count: int = count) -> None:
            kill_at(folder, event, count)
            train(world, folder, workers=2 * (folder.name == LOADING))

        assert fork(doomed) == -signal.SIGKILL
        assert fork(lambda folder=folder: train(world, folder)) == 0  # type: ignore[misc]


def train(world: str, out: Path, workers: int = 0) -> None:
    config = train_config(**SETTINGS, workers=workers)
    inputs = World(Path(world))
    result = inputs.train(config, out, validation=inputs.scripted(steps_of))
    (out / "resumed").write_text(str(result.resumed_from))


def steps_of(student: Student) -> float:
    """Measure each student as better than the one before."""
    return max(float(value) for name, value in student.named_buffers() if "num_batches" in name)


def fork(work: Callable[[], None]) -> int:
    """Do the work in a child; return its exit code."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def kill_at(folder: Path, event: str, count: int) -> None:
    """Arrange that this process kills itself when an event happens the given time."""
    left = count

    def happened(what: str) -> None:
        nonlocal left
        left -= what == event
        if left == 0:
            loaders = [process.pid for process in multiprocessing.active_children()]
            (folder / "loaders").write_text(" ".join(map(str, loaders)))
            os.kill(os.getpid(), signal.SIGKILL)

    replace, step, save = Path.replace, torch.optim.AdamW.step, torch.save

    def replacing(self: Path, target: Path) -> Path:
        happened(f"before {target.name}")
        replaced = replace(self, target)
        happened(f"after {target.name}")
        return replaced

    def stepping(self: torch.optim.AdamW) -> None:
        step(self)
        happened("update")

    def saving(content: object, file: Any) -> None:  # noqa: ANN401
        start = file.tell()
        save(content, file)
        file.truncate(start + (file.tell() - start) // 2)
        file.flush()
        happened("save")
        file.seek(start)
        save(content, file)

    Path.replace = replacing  # type: ignore[assignment,method-assign]
    torch.optim.AdamW.step = stepping  # type: ignore[assignment,method-assign]
    torch.save = saving  # type: ignore[assignment]
