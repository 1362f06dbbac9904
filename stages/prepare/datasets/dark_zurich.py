"""Dark Zurich, frames of 1920x1080 by day, at twilight and by night; 50 of the night have labels.

Without its test split, whose labels are not public. Label ids are those of Cityscapes.
"""

from typing import ClassVar, Final, Literal

from pydantic import Field

from stages.prepare.datasets.cityscapes import label_code
from stages.prepare.datasets.dataset import FileDataset, Listing, Progress
from stages.prepare.labels import CITYSCAPES_19

_IMAGE: Final = "_rgb_anon"


class Config(FileDataset):
    """Dark Zurich as published: unlabelled `rgb_anon/train`, 50 labelled images by night as val."""

    terms: ClassVar = "Dark Zurich, for non-commercial research by its own terms"
    class_table: ClassVar = CITYSCAPES_19
    remedy: ClassVar = (
        "unpack Dark_Zurich_train_anon.zip and Dark_Zurich_val_anon.zip "
        "(trace.ethz.ch/publications/2019/GCMA_UIoU) into root"
    )

    kind: Literal["dark_zurich"] = Field(description="Which dataset this is.")
    train_times: tuple[Literal["day", "twilight", "night"], ...] = Field(
        min_length=1, description="Times of day that are trained on; val is by night."
    )

    def scan(self, progress: Progress) -> Listing:
        """List images, those of val with labelIds; where there are none of them, labelTrainIds."""
        code, table = label_code(self.folder, "gt/val/night/*/*_gt_")
        listing = Listing(CITYSCAPES_19, table)
        for time in self.train_times:
            self.pair(listing, "train", f"rgb_anon/train/{time}", None, image_suffix=_IMAGE)
        self.pair(
            listing,
            "val",
            "rgb_anon/val/night",
            "gt/val/night",
            image_suffix=_IMAGE,
            label_suffix=f"_gt_{code}",
        )
        return listing
