"""Cityscapes, 2,975 + 500 frames of 2048x1024 with fine labels, as in the official archives."""

from pathlib import Path
from typing import ClassVar, Literal, get_args

from pydantic import Field

from stages.fields import Split
from stages.prepare.datasets.dataset import FileDataset, Listing, Progress
from stages.prepare.labels import CITYSCAPES_19, CITYSCAPES_IDS, LabelTable, train_id_table


class Config(FileDataset):
    """Cityscapes as published: `leftImg8bit/{train,val}` and `gtFine/{train,val}`."""

    terms: ClassVar = "Cityscapes, for non-commercial research by its own terms"
    class_table: ClassVar = CITYSCAPES_19
    remedy: ClassVar = (
        "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (cityscapes-dataset.com) "
        "into root"
    )

    kind: Literal["cityscapes"] = Field(description="Which dataset this is.")

    def scan(self, progress: Progress) -> Listing:
        """List images with their labelIds; without any, with cityscapesscripts' labelTrainIds."""
        code, table = label_code(self.folder, "gtFine/*/*/*_gtFine_")
        listing = Listing(CITYSCAPES_19, table)
        for split in get_args(Split):
            self.pair(
                listing,
                split,
                f"leftImg8bit/{split}",
                f"gtFine/{split}",
                image_suffix="_leftImg8bit",
                label_suffix=f"_gtFine_{code}",
            )
        return listing


def label_code(root: Path, pattern: str) -> tuple[str, LabelTable]:
    """Choose the label files of Cityscapes' layout: labelIds, or labelTrainIds where these lack.

    Their names below the root begin as `pattern`.

    Returns:
        How the stems of the files end, and the meaning of their values.
    """

    def there_are(code: str) -> bool:
        return any(not path.name.startswith(".") for path in root.glob(f"{pattern}{code}.png"))

    if there_are("labelTrainIds") and not there_are("labelIds"):
        return "labelTrainIds", train_id_table(CITYSCAPES_19)
    return "labelIds", CITYSCAPES_IDS
