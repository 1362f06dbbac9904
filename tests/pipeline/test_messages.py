"""Lines that fit the screen, of an interrupt, and of an error that nobody foresaw."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from typer.core import TyperGroup

from pipeline.console import activity, console, print_table, progress
from pipeline.messages import INTERRUPTED, wrapped
from tests.conftest import HOSTILE
from tests.pipeline.test_empty import EMPTY
from tests.pipeline.test_help import COMMANDS
from tests.pipeline.workplace import Outcome, change_params, demand, ssr, the_store, times

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


COLUMNS = 100


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen of 100 columns, as the process finds it when it starts."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setattr(console, "soft_wrap", False)
    monkeypatch.setattr(console, "_width", COLUMNS)


def assert_fits(text: str) -> None:
    assert text
    assert [line for line in text.splitlines() if len(line) > COLUMNS] == []


@pytest.mark.usefixtures("screen")
@pytest.mark.parametrize("words", EMPTY)
def test_what_is_missing_is_said_in_lines_that_fit(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_fits(ssr(*words.split()).err)


def test_a_name_with_markup_is_shown_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_force_terminal", True)
    for name in HOSTILE:
        with activity(name) as say, progress("train", "steps") as report:
            say(name)
            report(1, 2, name)
        print_table(name, (name,), [(name,)])
        console.print(name)
        assert capsys.readouterr().out.count(name) >= 4


@pytest.mark.usefixtures("screen")
def test_help_fits() -> None:
    for words in EMPTY:
        assert_fits(ssr(words.split()[0], "--help").out)


@pytest.mark.usefixtures("screen", "photos")
def test_what_commands_print_fits() -> None:
    store = str(the_store("source"))
    for words in (
        *("prepare", "embed", "train", "evaluate", "metrics", "doctor", "plan", "plan --calibrate"),
        *("export runs --out exported", "predict runs photos/dusk/images --out predicted"),
        *(f"inspect {store} --png picture.png", f"verify {store}", f"verify {store} --online 2"),
        *(f"convert {store} --codec int8",),
    ):
        assert_fits(demand(*words.split()))


def test_a_message_is_broken_at_words_and_a_command_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = "ssr: interrupted: the checkpoint is kept; go on with `ssr train --out runs/other`"
    monkeypatch.delenv("COLUMNS", raising=False)
    assert wrapped(message) == message
    monkeypatch.setenv("COLUMNS", "40")
    assert wrapped(message).splitlines() == [
        "ssr: interrupted: the checkpoint is",
        "kept; go on with",
        "`ssr train --out runs/other`",
    ]
    assert wrapped("ssr: 2 problems:\n  one\n  two").splitlines() == [
        "ssr: 2 problems:",
        "  one",
        "  two",
    ]


@pytest.mark.slow
def test_in_a_pipe_a_line_stays_whole_unless_columns_says_how_wide_it_may_be(
    workplace: Path,
) -> None:
    command = [str(Path(sys.executable).with_name("ssr")), "plan", "--device", "a nobody's"]
    demand("prepare")

    def lines(**more: str) -> list[str]:
        whole = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        done = subprocess.run(
            command,
            cwd=workplace,
            env={**whole, **more},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    plain, narrow = lines(), lines(COLUMNS="100")
    (whole,) = (line for line in plain if line.startswith("time: unknown, "))
    assert len(whole) > COLUMNS
    assert max(map(len, narrow)) <= COLUMNS
    assert whole in " ".join(" ".join(narrow).split())


def failing(error: Exception) -> Outcome:
    with mock.patch.object(TyperGroup, "invoke", side_effect=error):
        return ssr("train", "--out", "mine")


def test_an_unforeseen_error_is_one_line_that_names_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome = failing(ZeroDivisionError("by zero\nand more"))
    assert outcome.code == 1
    assert re.fullmatch(r"ssr: unforeseen: ZeroDivisionError: by zero; .*\n", outcome.err)
    (file,) = tmp_path.iterdir()
    assert str(file) in outcome.err
    saved = file.read_text()
    assert "Traceback" in saved
    assert "and more" in saved
    assert "'--out', 'mine'" in saved


def test_on_a_full_disk_the_traceback_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    outcome = failing(KeyError("x"))
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("ssr: unforeseen: KeyError: 'x'; ")


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried\nto")]
)
def test_memory_that_is_short_is_a_line_with_what_needs_less(error: Exception) -> None:
    outcome = failing(error)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "train.micro_batch_size" in outcome.err
