"""Frames as Cityscapes, ACDC and Dark Zurich keep them: a folder per drive, files that say what.

`<images>/<drive>/<frame><ending>` has its label at `<labels>/<drive>/<frame><another ending>`.
"""

from pathlib import Path
from typing import Final

from stages.prepare.config import Split
from stages.prepare.labels import CITYSCAPES_19, CITYSCAPES_IDS, LabelTable, train_id_table
from stages.prepare.sources.listing import Item, require_folder
from store.errors import DataError

LABEL_IDS: Final = "labelIds.png"
TRAIN_IDS: Final = "labelTrainIds.png"


def label_code(root: Path, pattern: str) -> tuple[str, LabelTable]:
    """Say which label files are read, and how: labelIds; labelTrainIds where there are no others.

    Args:
        root: The dataset's folder.
        pattern: Of the label files below it, up to what tells their kind.

    Returns:
        How the files' names end, and the meaning of their values.
    """
    if not any(root.glob(pattern + LABEL_IDS)) and any(root.glob(pattern + TRAIN_IDS)):
        return TRAIN_IDS, train_id_table(CITYSCAPES_19)
    return LABEL_IDS, CITYSCAPES_IDS


def frames(
    split: Split,
    root: Path,
    images: tuple[str, str],
    labels: tuple[str, str] | None,
    *,
    remedy: str,
) -> list[Item]:
    """List the frames of all drives of a folder.

    Args:
        split: Of the items.
        root: The dataset's folder.
        images: Folder of the images below it, and how their names end.
        labels: The same of the labels; None where there are none.
        remedy: What to download, and where it goes.

    Raises:
        DataError: The folder is missing, or holds no frames.
    """
    place, ending = root / images[0], images[1]
    require_folder(place, remedy)
    found = sorted(place.glob(f"*/*{ending}"))
    if not found:
        raise DataError(f"{place}: holds no */*{ending}: {remedy}")
    return [
        Item(
            split=split,
            image=frame.relative_to(root).as_posix(),
            label=None
            if labels is None
            else f"{labels[0]}/{frame.parent.name}/{frame.name.removesuffix(ending)}{labels[1]}",
        )
        for frame in found
    ]
