"""Frames as Cityscapes, ACDC and Dark Zurich keep them: a folder per drive, files that say what.

`<images>/<drive>/<frame><ending>` has its label at `<labels>/<drive>/<frame><another ending>`.
"""

from pathlib import Path
from typing import Final

from stages.prepare.config import Split
from stages.prepare.datasets.listing import Part, labelled_like
from stages.prepare.labels import CITYSCAPES_19, CITYSCAPES_IDS, LabelTable, train_id_table

LABEL_IDS: Final = "labelIds"
TRAIN_IDS: Final = "labelTrainIds"


def label_code(root: Path, pattern: str) -> tuple[str, LabelTable]:
    """Say which label files are read, and how: labelIds; labelTrainIds where there are no others.

    Args:
        root: The dataset's folder.
        pattern: Of the label files below it, up to what tells their kind.

    Returns:
        How the stems of the files end, and the meaning of their values.
    """

    def there_are(kind: str) -> bool:
        files = root.glob(f"{pattern}{kind}.png")
        return any(not file.name.startswith(".") for file in files)

    if not there_are(LABEL_IDS) and there_are(TRAIN_IDS):
        return TRAIN_IDS, train_id_table(CITYSCAPES_19)
    return LABEL_IDS, CITYSCAPES_IDS


def frames(
    split: Split,
    root: Path,
    images: tuple[str, str],
    labels: tuple[str, str] | None,
    *,
    remedy: str,
) -> Part:
    """List the frames of all drives of a folder.

    Args:
        split: Of the items.
        root: The dataset's folder.
        images: Folder of the images below it, and how their stems end.
        labels: The same of the labels; None where there are none.
        remedy: What to download, and where it goes.

    Raises:
        DataError: A folder cannot be listed.
    """
    place, suffix = (None, "") if labels is None else labels
    return labelled_like(
        split, root, images[0], place, image_suffix=images[1], label_suffix=suffix, remedy=remedy
    )
