"""Lines fit the screen: broken at words where somebody reads along, left whole in a pipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.console import activity, console, print_table, progress
from pipeline.messages import wrapped
from tests.conftest import HOSTILE
from tests.pipeline.test_empty import EMPTY
from tests.pipeline.workplace import demand, ssr, the_store

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
