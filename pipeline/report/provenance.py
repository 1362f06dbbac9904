"""What was run: parameters, versions and hashes, and what does not belong together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.console import size
from pipeline.costs import Cost, cost_of
from pipeline.params import Params
from stages.train.model.saved import read_card
from stages.train.provenance import INCIDENTAL

UNITS: Final[Mapping[str, str]] = {
    "prepare": "files",
    "embed": "images",
    "train": "steps",
    "evaluate": "images",
}


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
class StudentPart:
    """The trained student.

    Attributes:
        weights: Digest of its weights, shortened.
        run: Fingerprint of the run that made it: parameters, data, features, weights and code.
        backbone: Of the student.
        head: Likewise.
        start: What its backbone held at the very beginning; None where nobody knows.
        teacher_trained: False for an UNTRAINED TEACHER, None where no features were read.
        iterations: Steps of the recipe.
        changed: Keys of the recipe that differ from the params file, as `key: file, then recipe`.
    """

    weights: str
    run: str
    backbone: str
    head: str
    start: str | None
    teacher_trained: bool | None
    iterations: int | None
    changed: tuple[str, ...]


def read_student(run: Path, params: Params) -> StudentPart:
    """Read what is noted beside the student of a run.

    Raises:
        CheckpointError: There is no student.
    """
    card = read_card(run / "student")
    recipe = card.meta.get("recipe", {})
    asked = params.train.model_dump(mode="json", exclude=INCIDENTAL)
    return StudentPart(
        weights=card.weights_sha256[:12],
        run=str(card.meta.get("run", "")),
        backbone=card.student.backbone,
        head=card.student.head,
        start=card.meta.get("weights"),
        teacher_trained=card.meta.get("teacher_trained"),
        iterations=recipe.get("iterations"),
        changed=tuple(_differences(asked, recipe)),
    )


def cost_rows(run: Path, data: Path) -> tuple[CostRow, ...]:
    """Return time and memory of each stage that was run here since costs are noted."""
    folders = {"prepare": data, "embed": data, "train": run, "evaluate": run}
    costs = {stage: cost_of(stage, folder) for stage, folder in folders.items()}
    return tuple(_cost_row(cost) for cost in costs.values() if cost is not None)


def versions_then(run: Path, data: Path) -> dict[str, str]:
    """Return the versions that the last stage which left a note ran with, the student's first."""
    for stage, folder in (("train", run), ("evaluate", run), ("embed", data), ("prepare", data)):
        if (cost := cost_of(stage, folder)) is not None:
            return cost.versions
    return {}


def _cost_row(cost: Cost) -> CostRow:
    resumed = f", after {cost.first} that left no note" if cost.first else ""
    return CostRow(
        stage=cost.stage,
        time=_duration(cost.seconds),
        memory="" if cost.peak_bytes is None else size(cost.peak_bytes),
        gpu_memory="" if cost.gpu_peak_bytes is None else size(cost.gpu_peak_bytes),
        done=f"{cost.units} {UNITS[cost.stage]}{resumed}{'' if cost.finished else ', interrupted'}",
        ended=cost.ended.replace("T", " ").removesuffix("+00:00") + " UTC",
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _differences(asked: Mapping[str, Any], noted: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Name the keys whose values differ, but for those that hold folders of a machine."""
    for key, value in asked.items():
        name = f"{at}{key}"
        other = noted.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from _differences(value, other, f"{name}.")
        elif value != other and name not in ("init", "student.weights"):
            yield f"train.{name}: {value} in the params file, {other} when it was trained"
