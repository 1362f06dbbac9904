"""Console output: progress and tables. Only this layer prints."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pipeline.messages import is_wrapped

Report = Callable[[int, int, str], None]
"""(done, in all, what is being done) -> None; what every stage calls."""

QUIET_S = 10.0
"""Least time between two lines of progress where there is no terminal."""

console = Console(
    highlight=False,
    markup=False,  # nor in tables: names of classes and files are the user's
    emoji=False,
    soft_wrap=not is_wrapped(sys.stdout),
)


class _Speed(ProgressColumn):
    """Units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} {self._unit}/s", style="cyan")


@contextmanager
def progress(name: str, unit: str) -> Iterator[Report]:
    """Show progress while the block runs: bars in a terminal, elsewhere a line now and then."""
    if console.quiet or not console.is_terminal:
        yield _Lines(name, unit)
        return
    columns = (
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(unit),
        TimeRemainingColumn(),
        TextColumn("{task.description}", style="dim", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        current = bars.add_task("starting", total=None)  # imports, loading weights
        last = 0

        def report(done: int, total: int, what: str) -> None:
            nonlocal current, last
            if last == 0 or done <= last:  # a new piece of work starts counting anew
                bars.remove_task(current)
                current = bars.add_task(what, total=total)
            bars.update(current, completed=done, total=total, description=what)
            last = done

        yield report


@contextmanager
def activity(what: str) -> Iterator[Callable[[str], None]]:
    """Say in a terminal what is being done that counts no units, until the block ends."""
    if console.quiet or not console.is_terminal:
        yield lambda what: None
        return
    with console.status(Text(what)) as status:
        yield lambda what: status.update(Text(what))


class _Lines:
    """Progress in a log: the first and last unit of a piece of work, and one every `QUIET_S`."""

    def __init__(self, name: str, unit: str) -> None:
        self._name, self._unit = name, unit
        self._last = 0
        self._begun = (time.monotonic(), 0)
        self._spoke = float("-inf")

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if done <= self._last or self._last == 0:
            self._begun, self._spoke = (now, done), float("-inf")
        self._last = done
        if now - self._spoke < QUIET_S and done < total:
            return
        self._spoke = now
        seconds, units = now - self._begun[0], done - self._begun[1]
        speed = f", {units / seconds:.1f} {self._unit}/s" if seconds > 1 else ""
        left = f", {(total - done) * seconds / units:.0f} s left" if seconds > 1 and units else ""
        console.print(f"{self._name}: {done}/{total}{speed}{left}  {what}")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are numbers or short words."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def size(count: int) -> str:
    """Write a number of bytes for people."""
    value, units = float(count), ["B", "KB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"
