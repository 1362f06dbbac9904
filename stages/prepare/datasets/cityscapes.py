"""Cityscapes, and two datasets of adverse conditions that have its label ids and file names.

Cityscapes: 2,975 + 500 frames of 2048x1024 with fine labels, as in the official archives. ACDC
(acdc.vision.ee.ethz.ch): 4,006 frames of 1920x1080 in fog, by night, in rain and snow, without its
reference frames in clear weather. Dark Zurich: frames of 1920x1080 by day, at twilight and by
night; 50 of the night have labels. Test splits, whose labels are not public, are left out.
"""

from pathlib import Path
from typing import ClassVar, Final, Literal, get_args

from pydantic import Field

from stages.fields import Domain, Split
from stages.prepare.datasets.dataset import NO_LABELS, FileDataset, Listing, Progress
from stages.prepare.labels import CITYSCAPES_19, CITYSCAPES_IDS, LabelTable, train_id_table

_IMAGE: Final = "_rgb_anon"  # of ACDC and Dark Zurich
_LABEL_IDS, _TRAIN_IDS = "labelIds", "labelTrainIds"


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
        """List `leftImg8bit/{train,val}/<city>/` with `gtFine/{train,val}/<city>/`.

        Labels are the labelIds that the archive holds; where it has none of them, the
        labelTrainIds that cityscapesscripts make.
        """
        code, table = _label_code(self.folder, "gtFine/*/*/*_gtFine_")
        parts = [
            self.pair(
                split,
                f"leftImg8bit/{split}",
                f"gtFine/{split}",
                image_suffix="_leftImg8bit",
                label_suffix=f"_gtFine_{code}",
            )
            for split in get_args(Split)
        ]
        return Listing.of(CITYSCAPES_19, table, parts)


class Acdc(FileDataset):
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
        """List `rgb_anon/<condition>/{train,val}/<drive>/` with the same folders in `gt`.

        Labels are labelIds; where there are none of them, labelTrainIds.
        """
        code, table = _label_code(self.folder, "gt/*/*/*/*_gt_")
        parts = [
            self.pair(
                split,
                f"rgb_anon/{condition}/{split}",
                f"gt/{condition}/{split}",
                image_suffix=_IMAGE,
                label_suffix=f"_gt_{code}",
            )
            for split in get_args(Split)
            for condition in self.conditions
        ]
        return Listing.of(CITYSCAPES_19, table, parts)


class DarkZurich(FileDataset):
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
        """List `rgb_anon/train/<time>/<drive>/`, and `rgb_anon/val/night/` with `gt/val/night/`.

        Labels are labelIds; where there are none of them, labelTrainIds.
        """
        code, table = _label_code(self.folder, "gt/val/night/*/*_gt_")
        train = [
            self.pair("train", f"rgb_anon/train/{time}", None, image_suffix=_IMAGE)
            for time in self.train_times
        ]
        val = self.pair(
            "val",
            "rgb_anon/val/night",
            "gt/val/night",
            image_suffix=_IMAGE,
            label_suffix=f"_gt_{code}",
        )
        return Listing.of(CITYSCAPES_19, table, [*train, val])

    def require_training_data(self, domain: Domain) -> None:
        """Refuse to be the source: nothing to train on has a label."""
        if domain == "source":
            raise ValueError(
                f"source.kind is dark_zurich, whose training images have no labels: {NO_LABELS}"
            )


def _label_code(root: Path, pattern: str) -> tuple[str, LabelTable]:
    """Choose the label files of Cityscapes' layout: labelIds, or labelTrainIds where these lack.

    Args:
        root: The dataset's folder.
        pattern: Of the label files below it, up to what tells their kind.

    Returns:
        How the stems of the files end, and the meaning of their values.
    """

    def there_are(kind: str) -> bool:
        files = root.glob(f"{pattern}{kind}.png")
        return any(not file.name.startswith(".") for file in files)

    if not there_are(_LABEL_IDS) and there_are(_TRAIN_IDS):
        return _TRAIN_IDS, train_id_table(CITYSCAPES_19)
    return _LABEL_IDS, CITYSCAPES_IDS
