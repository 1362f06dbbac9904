"""Evaluated runs side by side: scores on the same images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.console import console, print_table
from pipeline.tables import UNTRAINED
from stages.evaluate.model import measured_card
from stages.evaluate.scores import Evaluation, percent_text, read_scores
from store.errors import CheckpointError, DataError


@dataclass(frozen=True)
class ComparedRun:
    """One run, its last evaluation, and how its training used a teacher.

    That is `none`, a kind of regulariser, or `?` where the student that was measured does not say
    or is not in the folder.
    """

    folder: Path
    teacher: str
    scores: Evaluation


def read_runs(folders: Sequence[Path]) -> tuple[ComparedRun, ...]:
    """Read the last evaluations of several runs.

    Raises:
        DataError: If a run was not evaluated, or on other images, of other classes or in another
            way than the first one.
    """
    runs, conditions = [], []
    for folder in folders:
        scores = read_scores(folder)
        data = {name: (each.content, tuple(each.iou)) for name, each in scores.by_dataset.items()}
        conditions.append((data, scores.weights, scores.inference))
        if conditions[-1] != conditions[0]:
            raise DataError(
                f"{folder}: was evaluated on other images or in another way than {folders[0]}; "
                "run `ssr evaluate` for both with the same params"
            )
        runs.append(ComparedRun(folder, _teacher(folder, scores), scores))
    return tuple(runs)


def print_comparison(runs: Sequence[ComparedRun]) -> None:
    """Show a column per run: IoU per class, means, and mean IoU minus the first run's."""
    for name, first in runs[0].scores.by_dataset.items():
        scores = [run.scores.by_dataset[name] for run in runs]
        rows = [("teacher", *(run.teacher for run in runs))]
        rows += [
            (label, *(percent_text(each.iou[label]) for each in scores)) for label in first.iou
        ]
        rows.append(("mean IoU", *(percent_text(each.miou) for each in scores)))
        gains = (f"{each.miou - first.miou:+.2f}" for each in scores[1:])
        rows.append((f"minus {runs[0].folder}", "", *gains))
        title = f"{name}: {first.images} images, percent, one run each"
        print_table(title, ("", *(str(run.folder) for run in runs)), rows)
    if any(run.scores.teacher_trained is False for run in runs):
        console.print(UNTRAINED)


def _teacher(run: Path, scores: Evaluation) -> str:
    try:
        card = measured_card(run, scores)
    except CheckpointError:
        card = None
    recipe = None if card is None else card.meta.get("recipe")
    regularizer = recipe.get("regularizer") if isinstance(recipe, Mapping) else None
    if not isinstance(regularizer, Mapping):
        return "?"
    return str(regularizer.get("kind", "ssr")) if regularizer.get("on") else "none"
