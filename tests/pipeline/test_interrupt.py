"""Ctrl-C: one line that says what is safe and how to go on, exit code 130, and it does go on."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from typer.core import TyperGroup

from pipeline.messages import INTERRUPTED
from tests.pipeline.test_help import COMMANDS
from tests.pipeline.workplace import change_params, demand, ssr, times

DEADLINE_S = 120.0
MANY = 40
"""Images of a domain, or steps: enough that none is done before it is interrupted."""


@pytest.fixture(autouse=True)
def _python_s_own_interrupt() -> Iterator[None]:
    """Let Ctrl-C reach what is started here, also where the tests run in the background of a shell.

    What it does in the process of the tests is put back, as a command changes it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(words: str, when: Callable[[], bool]) -> str:
    """Start `ssr` as a shell does, press Ctrl-C when something is the case; return its stderr."""
    command = Path(sys.executable).with_name("ssr")
    deadline = time.monotonic() + DEADLINE_S
    with subprocess.Popen(
        [command, *shlex.split(words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal interrupts the command and all that it started
    ) as started:
        try:
            while not when():
                assert started.poll() is None, "it ended before it could be interrupted"
                assert time.monotonic() < deadline, "the moment to interrupt did not come"
                time.sleep(0.002)
            os.killpg(started.pid, signal.SIGINT)
            _, said = started.communicate(timeout=DEADLINE_S)
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == INTERRUPTED, said
    return said


def go_on(said: str) -> str:
    """Type what the line of an interrupt names."""
    (command,) = re.findall(r"`ssr (.+)`$", said.strip())
    return demand(*shlex.split(command))


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt_is_one_line_that_names_the_next_command(command: str) -> None:
    with mock.patch.object(TyperGroup, "invoke", side_effect=KeyboardInterrupt):
        outcome = ssr(command, "--out", "my runs")
    assert outcome.code == 130
    assert outcome.err.startswith("ssr: interrupted: ")
    assert outcome.err.endswith(f" `ssr {command} --out 'my runs'`\n")
    assert outcome.err.count("\n") == 1
    assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_what_goes_on_does_not_start_over() -> None:
    with mock.patch.object(TyperGroup, "invoke", side_effect=KeyboardInterrupt):
        assert "`ssr train`" in ssr("train", "--fresh").err
        assert "embedded again are kept" in ssr("verify", "a.zarr", "--repair").err


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", " -S embed.executor=dask -S embed.workers=1"])
def test_an_interrupted_embed_goes_on_with_what_it_lacks(workplace: Path, options: str) -> None:
    change_params(workplace, {"prepare.source.train": MANY, "store.shard_images": 1})
    demand("prepare")
    shards = workplace / "data" / "features"
    said = interrupt(f"embed{options}", lambda: any(shards.glob("source/*/stride8/c.*")))
    untrained, line = said.splitlines()
    assert untrained.startswith("UNTRAINED TEACHER")
    assert line == (
        f"ssr: interrupted: shards that were written are kept; go on with `ssr embed{options}`"
    )
    kept = {name: time for name, time in times(shards).items() if "/c." in name}
    assert 0 < len(kept) < MANY
    go_on(line)
    assert kept.items() <= times(shards).items()
    assert demand("embed").count(" 0 embedded now") == 2


@pytest.mark.slow
def test_an_interrupted_training_goes_on_from_its_checkpoint(workplace: Path) -> None:
    changes = {"iterations": MANY, "checkpoint_every": 1, "validate_every": 0, "workers": 1}
    change_params(workplace, {f"train.{key}": value for key, value in changes.items()})
    demand("prepare")
    demand("embed")
    said = interrupt("train --fresh", (workplace / "runs" / "checkpoint.pt").is_file)
    assert said == (
        "ssr: interrupted: the last checkpoint is kept; go on from it with `ssr train`\n"
    )
    assert not (workplace / "runs" / "student").exists()
    (done,) = re.findall(rf"resumed after (\d+) of {MANY} steps", go_on(said))
    assert 0 < int(done) < MANY
