"""Costs of stages: time and memory of each run, noted as a line beside what it made."""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.console import Report
from store.atomic import open_regular

COSTS: Final = "costs.jsonl"
PACKAGES: Final = ("ssr-offline", "torch", "transformers", "segment-anything", "zarr", "numpy")


class Cost(BaseModel):
    """One run of a stage, or what is known of several that went on from each other.

    Attributes:
        stage: Name of the stage.
        ended: When, in UTC, to the second.
        seconds: From the first line of the command to its end, loading included.
        peak_bytes: Most memory that the main process held, its workers' left out; None where the
            system does not tell.
        gpu_peak_bytes: Most memory allocated on the current GPU; None without one.
        units: Steps or images that its progress reported, also those of pieces of work before the
            last one.
        first: How many were done before; above 0 a training was resumed.
        finished: False where it was interrupted or failed.
        versions: Of Python and the packages that numbers depend on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    ended: str
    seconds: float = Field(ge=0, allow_inf_nan=False)
    peak_bytes: int | None = Field(ge=0, le=2**60)
    gpu_peak_bytes: int | None = Field(ge=0, le=2**60)
    units: int = Field(ge=0)
    first: int = Field(ge=0)
    finished: bool
    versions: dict[str, str]


class _Counting:
    """Passes progress on, and counts it."""

    def __init__(self, show: Report) -> None:
        self._show = show
        self._last: int | None = None
        self.first = self.units = 0

    def __call__(self, done: int, total: int, what: str) -> None:
        if self._last is None or done < self._last:
            # a piece of work first tells of the unit after those that were done before it
            before = max(0, done - 1)
            self.first = before if self._last is None else self.first
            self._last = before
        self.units += done - self._last
        self._last = done
        self._show(done, total, what)


@contextmanager
def noted(stage: str, folder: Path | None, show: Report) -> Iterator[Report]:
    """Note the cost of the block in `<folder>/costs.jsonl`, whatever ends it but a kill.

    A folder that is not there when the block ends, or cannot be written, is left alone: the note
    is not worth failing for.

    Args:
        stage: Name of the stage.
        folder: Of what the stage makes; None notes nothing.
        show: Progress to pass on.
    """
    begun, counting, finished = time.monotonic(), _Counting(show), False
    try:
        yield counting
        finished = True
    finally:
        cost = Cost(
            stage=stage,
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - begun, 2),
            peak_bytes=peak_bytes(),
            gpu_peak_bytes=_gpu_peak_bytes(),
            units=counting.units,
            first=counting.first,
            finished=finished,
            versions=versions(),
        )
        if folder is not None and folder.is_dir():
            append = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            with suppress(OSError), os.fdopen(open_regular(folder / COSTS, append), "a") as file:
                file.write(cost.model_dump_json() + "\n")


def cost_of(stage: str, folder: Path) -> Cost | None:
    """Return what the last run that did something took, with those that it went on from.

    Seconds and units add up, memory is the largest. Lines that are no cost are passed over, as a
    machine that fails while writing leaves one.
    """
    path = folder / COSTS
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    whole: Cost | None = None
    for cost in reversed([c for c in map(_parsed, lines) if c and c.stage == stage and c.units]):
        if whole is not None and cost.finished:
            break  # an older run
        whole = cost if whole is None else _added(cost, whole)
        if stage == "train" and cost.first == 0:
            break  # others count only what is left to do
    return whole


def peak_bytes() -> int | None:
    """Return the most resident memory this process has held; None where Linux is not the system.

    Linux's VmHWM, not `ru_maxrss`, which starts at the parent's.
    """
    status = Path("/proc/self/status")
    found = (
        re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.M) if status.is_file() else None
    )
    return int(found[1]) * 1024 if found else None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on, as installed."""
    found = {"python": python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _gpu_peak_bytes() -> int | None:
    torch = sys.modules.get("torch")  # a stage that did not need it has no GPU memory
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated())


def _parsed(line: str) -> Cost | None:
    try:
        return Cost.model_validate_json(line)
    except ValidationError:
        return None


def _added(earlier: Cost, later: Cost) -> Cost:
    return later.model_copy(
        update={
            "seconds": earlier.seconds + later.seconds,
            "units": earlier.units + later.units,
            "first": earlier.first,
            "peak_bytes": max(earlier.peak_bytes or 0, later.peak_bytes or 0) or None,
            "gpu_peak_bytes": max(earlier.gpu_peak_bytes or 0, later.gpu_peak_bytes or 0) or None,
        }
    )
