"""Console output: progress, tables, and what a stage cost. Only this layer prints.

Time and memory of each run are noted as a line beside what it made.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from store.atomic import open_regular

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


COSTS: Final = "costs.jsonl"
PACKAGES: Final = ("ssr-offline", "torch", "transformers", "segment-anything", "zarr", "numpy")


class Cost(BaseModel):
    """One run of a stage."""

    model_config = ConfigDict(frozen=True)

    stage: str
    ended: str  # in UTC, to the second
    seconds: float  # loading included
    peak_bytes: int | None  # of the main process; None where the system does not tell
    gpu_peak_bytes: int | None  # allocated on the current GPU; None without one
    units: int  # steps or images that its progress reported
    finished: bool  # False where it was interrupted or failed
    versions: dict[str, str]  # of Python and the packages that numbers depend on


@contextmanager
def noted(stage: str, unit: str, folder: Path | None) -> Iterator[Report]:
    """Show progress, and note in `<folder>/costs.jsonl` what the block took, if it is not killed.

    A folder that is None, not there when the block ends, or cannot be written, is left alone: the
    note is not worth failing for.
    """
    begun, finished, units, last = time.monotonic(), False, 0, -1

    def count(done: int, total: int, what: str) -> None:
        nonlocal units, last
        goes_on = 0 <= last <= done  # else it is the first unit of a piece of work
        units += done - last if goes_on else min(done, 1)
        last = done
        show(done, total, what)

    try:
        with progress(stage, unit) as show:
            yield count
        finished = True
    finally:
        torch = sys.modules.get("torch")  # a stage that did not need it has no GPU memory
        on_gpu = torch and torch.cuda.is_initialized()
        found = {"python": python_version()}
        for package in PACKAGES:
            with suppress(PackageNotFoundError):
                found[package] = version(package)
        cost = Cost(
            stage=stage,
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - begun, 2),
            peak_bytes=peak_bytes(),
            gpu_peak_bytes=torch.cuda.max_memory_allocated() if torch and on_gpu else None,
            units=units,
            finished=finished,
            versions=found,
        )
        if folder is not None and folder.is_dir():
            append = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            with suppress(OSError), os.fdopen(open_regular(folder / COSTS, append), "a") as file:
                file.write(cost.model_dump_json() + "\n")


def cost_of(stage: str, folder: Path) -> Cost | None:
    """Return what the last run that did something took.

    A line that a failing machine tore is passed over.
    """
    path = folder / COSTS
    for line in reversed(path.read_text(errors="replace").splitlines() if path.is_file() else []):
        try:
            cost = Cost.model_validate_json(line)
        except ValidationError:
            continue
        if cost.stage == stage and cost.units:
            return cost
    return None


def peak_bytes() -> int | None:
    """Return the most resident memory this process has held; None where Linux is not the system.

    Linux's VmHWM, not `ru_maxrss`, which starts at the parent's.
    """
    status = Path("/proc/self/status")
    text = status.read_text() if status.is_file() else ""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
