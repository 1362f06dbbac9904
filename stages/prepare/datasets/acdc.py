"""ACDC, 4,006 frames of 1920x1080 in fog, by night, in rain and snow (acdc.vision.ee.ethz.ch).

Without its reference frames in clear weather and its test split, whose labels are not public.
Label ids are those of Cityscapes, by the authors' own statement.
"""

from itertools import product
from typing import ClassVar, Literal, get_args

from pydantic import Field

from stages.fields import Split
from stages.prepare.datasets.cityscapes import label_code
from stages.prepare.datasets.dataset import FileDataset, Listing, Progress
from stages.prepare.labels import CITYSCAPES_19


class Config(FileDataset):
    """ACDC as published: `rgb_anon/<condition>/{train,val}` and `gt/<condition>/{train,val}`."""

    terms: ClassVar = "ACDC, for non-commercial research by its own terms"
    class_table: ClassVar = CITYSCAPES_19
    remedy: ClassVar = (
        "unpack rgb_anon_trainvaltest.zip and gt_trainval.zip (acdc.vision.ee.ethz.ch) into root, "
        "and leave their folders as they are"
    )

    kind: Literal["acdc"] = Field(description="Which dataset this is.")
    conditions: tuple[Literal["fog", "night", "rain", "snow"], ...] = Field(
        min_length=1, description="Which of its conditions are taken, for both splits."
    )

    def scan(self, progress: Progress) -> Listing:
        """List images with their labelIds; where there are none of them, labelTrainIds."""
        code, table = label_code(self.folder, "gt/*/*/*/*_gt_")
        listing = Listing(CITYSCAPES_19, table)
        for split, condition in product(get_args(Split), self.conditions):
            self.pair(
                listing,
                split,
                f"rgb_anon/{condition}/{split}",
                f"gt/{condition}/{split}",
                image_suffix="_rgb_anon",
                label_suffix=f"_gt_{code}",
            )
        return listing
