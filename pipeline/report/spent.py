"""What the report says of time and memory, from the notes that stages leave."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.console import size
from pipeline.costs import Cost, cost_of, versions


@dataclass(frozen=True)
class CostRow:
    """One stage as text: how long, how much, and when its last run that did something ended."""

    stage: str
    time: str
    memory: str
    gpu_memory: str
    done: str
    ended: str


@dataclass(frozen=True)
class Spent:
    """Time and memory.

    Attributes:
        stages: A row per stage that left a note.
        versions: Of Python and packages.
        noted: Whether these are of the last run, and not of now, where none is noted.
    """

    stages: tuple[CostRow, ...]
    versions: dict[str, str]
    noted: bool


def read_spent(run: Path, data: Path) -> Spent:
    """Read the notes of all stages; versions are those that made the student, if they are known."""
    folders = {"train": run, "evaluate": run, "embed": data, "prepare": data}
    costs = {stage: cost_of(stage, folder) for stage, folder in folders.items()}
    noted = [cost for cost in costs.values() if cost is not None]
    in_order = (costs[stage] for stage in ("prepare", "embed", "train", "evaluate"))
    return Spent(
        stages=tuple(_row(cost) for cost in in_order if cost is not None),
        versions=noted[0].versions if noted else versions(),
        noted=bool(noted),
    )


def _row(cost: Cost) -> CostRow:
    done = {"train": f"{cost.units} steps", "embed": f"{cost.units} images"}.get(cost.stage, "")
    if cost.first:
        done += f", after {cost.first} that left no note"
    if not cost.finished:
        done = f"{done}, interrupted".removeprefix(", ")
    return CostRow(
        stage=cost.stage,
        time=_duration(cost.seconds),
        memory="" if cost.peak_bytes is None else size(cost.peak_bytes),
        gpu_memory="" if cost.gpu_peak_bytes is None else size(cost.gpu_peak_bytes),
        done=done,
        ended=cost.ended.replace("T", " ").removesuffix("+00:00") + " UTC",
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
