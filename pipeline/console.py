"""Console output: progress and tables. Only this layer prints."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.table import Table
from rich.text import Text

Report = Callable[[int, int, str], None]
"""(done, in all, what is being done) -> None; what every stage calls."""

QUIET_S = 10.0
"""Least time between two lines of progress where there is no terminal."""

console = Console(
    highlight=False,
    markup=False,  # nor in tables: names of classes and files are the user's
    emoji=False,
    soft_wrap=not sys.stdout.isatty(),
)


@contextmanager
def progress(name: str, unit: str) -> Iterator[Report]:
    """Show progress while the block runs: one line that changes, or in a log one now and then."""
    live = console.is_terminal and not console.quiet
    with console.status(f"{name}: starting") if live else nullcontext() as status:
        last, begun_s, first, spoke_s = 0, 0.0, 0, 0.0

        def report(done: int, total: int, what: str) -> None:
            nonlocal last, begun_s, first, spoke_s
            now_s = time.monotonic()
            is_new = last == 0 or done <= last  # a new piece of work counts anew
            if is_new:
                begun_s, first = now_s, done
            last = done
            if not (live or is_new or done >= total or now_s - spoke_s >= QUIET_S):
                return
            spoke_s = now_s
            line, seconds, units = f"{name}: {done}/{total}", now_s - begun_s, done - first
            if seconds > 1 and units:
                left_s = (total - done) * seconds / units
                line += f", {units / seconds:.1f} {unit}/s, {left_s:.0f} s left"
            if status is None:
                console.print(f"{line}  {what}")
            else:
                status.update(Text(f"{line}  {what}"))

        yield report


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are numbers or short words."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
