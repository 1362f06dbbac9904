"""GTA5 ("Playing for Data"), 24,966 frames of about 1914x1052 with Cityscapes' label ids.

Labels are always read from `labels/`, ids or, in some mirrors, colours; `*_labelTrainIds.png` files
that other code leaves beside them are not needed and not looked at.
"""

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from pydantic import Field

from stages.prepare.datasets.dataset import FileDataset, Item, Listing, PathInRoot, Progress
from stages.prepare.labels import CITYSCAPES_19, CITYSCAPES_IDS
from store.errors import DataError


class Config(FileDataset):
    """GTA5 as published: `images/*.png` and `labels/*.png`."""

    terms: ClassVar = "GTA5 (Playing for Data), for research and education"
    class_table: ClassVar = CITYSCAPES_19
    remedy: ClassVar = (
        "unpack the images and labels of GTA5 (download.visinf.tu-darmstadt.de/data/from_games) "
        "into root"
    )

    kind: Literal["gta5"] = Field(description="Which dataset this is.")
    val_list: PathInRoot | None = Field(
        description="Text file of image names, one a line, to hold out as val; null trains on all."
    )

    def scan(self, progress: Progress) -> Listing:
        """List `images/*.png` with `labels/*.png`; all for training but those of `val_list`."""
        listing = Listing(CITYSCAPES_19, CITYSCAPES_IDS)
        self.pair(listing, "train", "images", "labels")
        if self.val_list is not None and listing.items:
            listing.items = _hold_out(listing.items, self.folder / self.val_list)
        return listing


def _hold_out(items: list[Item], val_list: Path) -> list[Item]:
    try:
        names = {PurePosixPath(line).stem for line in val_list.read_text("utf-8").split()}
    except (OSError, UnicodeError) as error:
        raise DataError(
            f"{val_list}: cannot be read: prepare.*.val_list names a text file of image names"
        ) from error
    unknown = names - {PurePosixPath(item.image).stem for item in items}
    if unknown:
        raise DataError(
            f"{val_list}: {min(unknown)} is not an image of images/ ({len(unknown)} such lines): "
            "correct the list"
        )
    return [
        replace(item, split="val") if PurePosixPath(item.image).stem in names else item
        for item in items
    ]
