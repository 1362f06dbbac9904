"""`torchrun` on two processes of the CPU: one run, one voice, one set of files."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.mistakes import assert_refused
from tests.pipeline.workplace import REPOSITORY, SMALLEST, demand, made, stored

DEADLINE_S = 240


LAUNCH = [
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    *("-m", "pipeline.cli", "train"),
]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("torchrun"), SMALLEST, "prepare", "embed")


@pytest.fixture
def there(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(embedded)
    return embedded


@pytest.mark.slow
def test_torchrun_trains_by_two_processes_with_one_voice(there: Path) -> None:
    command = [*LAUNCH, "--out", "runs/two"]
    done = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done
    assert done.stdout.count("train: 4/4") == 1
    assert done.stdout.count("student in runs/two/student") == 1
    assert "Traceback" not in done.stderr
    assert "ssr:" not in done.stderr
    left = {name.removeprefix("runs/two/") for name in stored(there) if "runs/two" in name}
    assert left == {
        *("checkpoint.pt", "curves.csv", "health.csv", "validation.csv", "run.json", "writer.lock"),
        *(f"{kind}/config.json" for kind in ("student", "best", "ema")),
        *(f"{kind}/model.safetensors" for kind in ("student", "best", "ema")),
    }
    # one process takes the run over: it is finished
    assert "resumed after 4 of 4 steps" in demand("train", "--out", "runs/two")
    assert "mean IoU" in demand("evaluate", "--out", "runs/two")


@pytest.mark.slow
@pytest.mark.usefixtures("there")
def test_a_killed_process_ends_all_and_the_run_goes_on_with_one() -> None:
    longer = ("-S", "train.iterations=400", "--out", "runs/killed")
    launcher = subprocess.Popen(
        [*LAUNCH, *longer], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + DEADLINE_S
    while not Path("runs/killed/checkpoint.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    listed = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    ranks = sorted(map(int, listed))
    assert len(ranks) == 2
    os.kill(ranks[-1], signal.SIGKILL)
    _, err = launcher.communicate(timeout=90)
    assert launcher.returncode != 0
    assert "SIGKILL" in err or "Signal 9" in err
    assert not any(Path("/proc", str(rank)).exists() for rank in ranks)
    assert "resumed after" in demand("train", *longer)


@pytest.mark.usefixtures("there")
def test_processes_that_do_not_find_each_other_are_a_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    says = ("the processes of this run do not find each other (", "torchrun --nproc-per-node N")
    assert_refused("train", *says)
