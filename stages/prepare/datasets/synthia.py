"""SYNTHIA-RAND-CITYSCAPES, 9,400 renderings of 1280x760; the labels are 16-bit PNGs.

Their red channel is the class, the others tell instances apart. `pixels.decode_label` reads that.
"""

from typing import ClassVar, Final, Literal

from pydantic import Field

from stages.prepare.datasets.dataset import FileDataset, Listing, Progress, files_under
from stages.prepare.labels import CITYSCAPES_19, IGNORE, LabelTable, train_id_table

_LABELS: Final = "GT/LABELS"
_TRAIN_IDS: Final = "_labelTrainIds"

# Classes in the order of their ids, from the README of the dataset; those of other names than in
# Cityscapes have no class, as in DAFormer's conversion. Terrain, truck and
# train have an id, but no image shows them. Lane markings have no class there, though other code
# calls them road.
_NAMES: Final = (  # the README says pedestrian for person
    *("void", "sky", "building", "road", "sidewalk", "fence", "vegetation", "pole", "car"),
    *("traffic sign", "person", "bicycle", "motorcycle", "parking slot", "road work"),
    *("traffic light", "terrain", "rider", "truck", "bus", "train", "wall", "lane marking"),
)

SYNTHIA_IDS: Final = LabelTable(
    {
        stored: CITYSCAPES_19.names.index(name) if name in CITYSCAPES_19.names else IGNORE
        for stored, name in enumerate(_NAMES)
    }
)
"""SYNTHIA's ids to the 19 classes of Cityscapes."""


class Config(FileDataset):
    """SYNTHIA-RAND-CITYSCAPES as published: `RGB/*.png` and `GT/LABELS/*.png`, all to train on.

    Of the 19 classes, terrain, truck and train are never labelled.
    """

    terms: ClassVar = "SYNTHIA, for non-commercial use by its own terms"
    class_table: ClassVar = CITYSCAPES_19
    remedy: ClassVar = (
        "unpack SYNTHIA-RAND-CITYSCAPES (synthia-dataset.net) so that root holds RGB and GT/LABELS"
    )

    kind: Literal["synthia"] = Field(description="Which dataset this is.")

    def scan(self, progress: Progress) -> Listing:
        """List images with their labels; without any, with conversions' `*_labelTrainIds.png`."""
        found = files_under(self.folder, _LABELS)[0] if (self.folder / _LABELS).is_dir() else []
        names = [name.rpartition(".")[0] for name in found if name.lower().endswith(".png")]
        converted = bool(names) and all(name.endswith(_TRAIN_IDS) for name in names)
        table = train_id_table(CITYSCAPES_19) if converted else SYNTHIA_IDS
        listing = Listing(CITYSCAPES_19, table)
        suffix = _TRAIN_IDS if converted else ""
        self.pair(listing, "train", "RGB", _LABELS, label_suffix=suffix)
        return listing
