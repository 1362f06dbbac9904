"""Lines of progress, of an interrupt, and of an error that nobody foresaw."""

import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from typer.core import TyperGroup

from pipeline.cli import INTERRUPTED
from tests.pipeline.repository import signalled
from tests.pipeline.workplace import change_params, demand, ssr, times

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
    """Start `ssr` as a shell does, press Ctrl-C when it is time; return the last line."""
    command: list[str | Path] = [Path(sys.executable).with_name("ssr"), *shlex.split(words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code, said = signalled(command, when, signal.SIGINT, env=environment)
    assert code == INTERRUPTED, said
    return said.splitlines()[-1]


def go_on(said: str) -> str:
    """Type what the line of an interrupt names."""
    (command,) = re.findall(r"`ssr (.+)`$", said)
    return demand(*shlex.split(command))


def test_an_interrupt_is_one_line_that_names_the_next_command() -> None:
    with mock.patch.object(TyperGroup, "invoke", side_effect=KeyboardInterrupt):
        outcome = ssr("train", "--fresh", "--out", "my runs")
    assert outcome.code == 130
    assert outcome.err.startswith("ssr: interrupted: ")
    assert outcome.err.endswith(" `ssr train --out 'my runs'`\n")  # without starting over
    assert outcome.err.count("\n") == 1
    assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", " -S embed.executor=dask -S embed.workers=1"])
def test_an_interrupted_embed_goes_on_with_what_it_lacks(workplace: Path, options: str) -> None:
    change_params(workplace, {"prepare.source.train": MANY, "store.shard_images": 1})
    demand("prepare")
    shards = workplace / "data" / "features"
    line = interrupt(f"embed{options}", lambda: any(shards.glob("source/*/stride8/c.*")))
    kept = {name: time for name, time in times(shards).items() if "/c." in name}
    assert 0 < len(kept) < MANY
    go_on(line)
    assert kept.items() <= times(shards).items()
    assert demand("embed").count(" 0 embedded now") == 2


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried\nto")]
)
def test_memory_that_is_short_is_a_line_with_what_needs_less(error: Exception) -> None:
    with mock.patch.object(TyperGroup, "invoke", side_effect=error):
        outcome = ssr("train", "--out", "mine")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "train.micro_batch_size" in outcome.err
