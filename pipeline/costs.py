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

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.console import Report, progress
from store.atomic import open_regular

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
    begun, finished, units = time.monotonic(), False, 0
    last: int | None = None

    def count(done: int, total: int, what: str) -> None:
        nonlocal units, last
        if last is None or done < last:  # a piece of work first reports the unit after those before
            last = max(0, done - 1)
        units += done - last
        last = done
        show(done, total, what)

    try:
        with progress(stage, unit) as show:
            yield count
        finished = True
    finally:
        torch = sys.modules.get("torch")  # a stage that did not need it has no GPU memory
        on_gpu = torch and torch.cuda.is_initialized()
        cost = Cost(
            stage=stage,
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - begun, 2),
            peak_bytes=peak_bytes(),
            gpu_peak_bytes=torch.cuda.max_memory_allocated() if torch and on_gpu else None,
            units=units,
            finished=finished,
            versions=versions(),
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


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on, as installed."""
    found = {"python": python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
