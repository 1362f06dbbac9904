"""CamVid, 480x360 with 11 classes and void, one folder per split."""

from typing import ClassVar, Final, Literal

from pydantic import Field

from stages.fields import Section, Split
from stages.prepare.datasets.dataset import FileDataset, Listing, PathInRoot, Progress
from stages.prepare.labels import named_as_in_cityscapes, train_id_table

CAMVID_11: Final = named_as_in_cityscapes(
    {
        "sky": "sky",
        "building": "building",
        "pole": "pole",
        "road": "road",
        "pavement": "sidewalk",
        "tree": "vegetation",
        "sign": "traffic sign",
        "fence": "fence",
        "car": "car",
        "pedestrian": "person",
        "bicyclist": "bicycle",
    }
)
"""The 11 classes of CamVid in the order of the SegNet version, in Cityscapes' colours."""

_VOID: Final = 11


class CamvidSplits(Section):
    """Which folder of CamVid is which split."""

    train: PathInRoot = Field(description="Folder of the split to train on, e.g. day_train.")
    val: PathInRoot | None = Field(description="Folder of the labelled split, or null.")


class Config(FileDataset):
    """CamVid with 11 classes: `<split folder>/images/*.jpg` and `labels/*.png`."""

    terms: ClassVar = "CamVid, for research"
    class_table: ClassVar = CAMVID_11
    remedy: ClassVar = (
        "root holds a folder for each split, named by `splits`, with images/*.jpg and "
        "labels/*.png of class ids; put them there or correct the path"
    )

    kind: Literal["camvid"] = Field(description="Which dataset this is.")
    splits: CamvidSplits = Field(description="Folders to train on and to evaluate on.")

    def scan(self, progress: Progress) -> Listing:
        """List `<split folder>/images/*.jpg` with `<split folder>/labels/*.png`."""
        listing = Listing(CAMVID_11, train_id_table(CAMVID_11, void=(_VOID,)))
        self.pair(listing, "train", f"{self.splits.train}/images", f"{self.splits.train}/labels")
        if self.splits.val is not None:
            self.pair(listing, "val", f"{self.splits.val}/images", f"{self.splits.val}/labels")
        return listing

    def key_of(self, split: Split, what: Literal["images", "labels"]) -> str:
        """Return the key that names the folder of a split."""
        return f"splits.{split}"
