"""Evaluated runs side by side: scores on the same images, and predictions of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from pipeline.console import console, print_table
from pipeline.tables import UNTRAINED, percent_text
from stages.evaluate.model import measured_card
from stages.evaluate.pictures import FONT_PX, GAP_PX, INK, MARGIN_PX, PAPER, read_triptych
from stages.evaluate.scores import Evaluation, read_scores
from store.atomic import write_bytes
from store.errors import CheckpointError, DataError

MOST_ROWS: Final = 4
"""Images of the picture."""


@dataclass(frozen=True)
class ComparedRun:
    """One run.

    Attributes:
        folder: Of the run.
        teacher: How its training used a teacher: `none`, a kind of regulariser, or `?` where the
            student that was measured does not say or is not in the folder.
        scores: Of its last evaluation.
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
    scores = [read_scores(folder) for folder in folders]
    for folder, each in zip(folders, scores, strict=True):
        if _measured_on(each) != _measured_on(scores[0]):
            raise DataError(
                f"{folder}: was evaluated on other images or in another way than {folders[0]}; "
                "run `ssr evaluate` for both with the same params"
            )
    return tuple(
        ComparedRun(folder, _teacher(folder, each), each)
        for folder, each in zip(folders, scores, strict=True)
    )


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


def draw_comparison(runs: Sequence[ComparedRun], path: Path) -> bool:
    """Write image | label | a prediction of each run, one row per image that all have drawn.

    Returns:
        False where they have drawn no image in common; nothing is written then.

    Raises:
        DataError: If a picture of a run is damaged or of an earlier version.
    """
    first, *others = (_read_pictures(run.folder) for run in runs)
    common = [image_id for image_id in first if all(image_id in other for other in others)]
    if not common:
        return False
    every = -(-len(common) // MOST_ROWS)
    rows = []
    for image_id in common[::every]:
        rows.append((*first[image_id], *(other[image_id][2] for other in others)))
    titles = ("image", "label", *(f"{run.folder}, teacher: {run.teacher}" for run in runs))
    file = BytesIO()
    _grid(titles, rows).save(file, "PNG")
    write_bytes(path, file.getvalue())
    return True


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


def _measured_on(scores: Evaluation) -> object:
    """Return all that must be equal for scores to compare."""
    images = {name: (each.content, tuple(each.iou)) for name, each in scores.by_dataset.items()}
    return images, scores.weights, scores.inference


def _read_pictures(run: Path) -> dict[str, tuple[Image.Image, ...]]:
    paths = sorted((run / "pictures").glob("[0-9][0-9][0-9]-*.png"))
    return dict(read_triptych(path) for path in paths)


def _grid(titles: Sequence[str], rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Lay out rows of pictures below their titles; a column is as wide as its widest entry."""
    font = ImageFont.load_default(FONT_PX)
    head_px = FONT_PX + 2 * MARGIN_PX
    widths = [
        max(round(font.getlength(title)), *(row[column].width for row in rows))
        for column, title in enumerate(titles)
    ]
    width = sum(widths) + GAP_PX * (len(widths) - 1)
    height = head_px + sum(row[0].height + GAP_PX for row in rows) - GAP_PX
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    x = 0
    for column, (title, column_px) in enumerate(zip(titles, widths, strict=True)):
        draw.text((x, MARGIN_PX), title, fill=INK, font=font)
        y = head_px
        for row in rows:
            picture.paste(row[column], (x, y))
            y += row[0].height + GAP_PX
        x += column_px + GAP_PX
    return picture
