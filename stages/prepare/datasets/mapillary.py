"""Mapillary Vistas with the classes of v1.2: 18,000 + 2,000 photographs of all sizes.

Labels are paletted PNGs of 66 ids; the palette is not looked at.
"""

from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import Field

from stages.fields import Split
from stages.prepare.datasets.dataset import FileDataset, Listing, Progress
from stages.prepare.labels import CITYSCAPES_19, IGNORE, LabelTable

_FOLDERS: Final[tuple[tuple[Split, str], ...]] = (("train", "training"), ("val", "validation"))

# In the order of their ids, as config.json of v1.2 has them.
NAMES: Final = (
    *("Bird", "Ground Animal", "Curb", "Fence", "Guard Rail", "Barrier", "Wall", "Bike Lane"),
    *("Crosswalk - Plain", "Curb Cut", "Parking", "Pedestrian Area", "Rail Track", "Road"),
    *("Service Lane", "Sidewalk", "Bridge", "Building", "Tunnel", "Person", "Bicyclist"),
    *("Motorcyclist", "Other Rider", "Lane Marking - Crosswalk", "Lane Marking - General"),
    *("Mountain", "Sand", "Sky", "Snow", "Terrain", "Vegetation", "Water", "Banner", "Bench"),
    *("Bike Rack", "Billboard", "Catch Basin", "CCTV Camera", "Fire Hydrant", "Junction Box"),
    *("Mailbox", "Manhole", "Phone Booth", "Pothole", "Street Light", "Pole"),
    *("Traffic Sign Frame", "Utility Pole", "Traffic Light", "Traffic Sign (Back)"),
    *("Traffic Sign (Front)", "Trash Can", "Bicycle", "Boat", "Bus", "Car", "Caravan"),
    *("Motorcycle", "On Rails", "Other Vehicle", "Trailer", "Truck", "Wheeled Slow", "Car Mount"),
    *("Ego Vehicle", "Unlabeled"),
)
"""The 66 classes of v1.2."""

# Which of them is which of Cityscapes' 19, beside those of the same name; others are ignored. There
# is no official mapping: this is that of Rein's evaluation (arXiv 2312.04265) of domain
# generalisation.
_CLASSES: Final = {
    **dict.fromkeys(("Bike Lane", "Crosswalk - Plain", "Parking", "Service Lane"), "road"),
    **dict.fromkeys(("Lane Marking - Crosswalk", "Lane Marking - General"), "road"),
    **dict.fromkeys(("Curb", "Curb Cut", "Pedestrian Area"), "sidewalk"),
    **dict.fromkeys(("Street Light", "Utility Pole"), "pole"),
    **dict.fromkeys(("Traffic Sign Frame", "Traffic Sign (Back)"), "traffic sign"),
    "Traffic Sign (Front)": "traffic sign",
    **dict.fromkeys(("Bicyclist", "Motorcyclist", "Other Rider"), "rider"),
    "On Rails": "train",
}

MAPILLARY_IDS: Final = LabelTable(
    {
        stored: CITYSCAPES_19.names.index(name) if name in CITYSCAPES_19.names else IGNORE
        for stored, own in enumerate(NAMES)
        for name in [_CLASSES.get(own, own.lower())]
    }
)
"""Ids of v1.2 to the 19 classes of Cityscapes."""


class Config(FileDataset):
    """Mapillary Vistas with the 66 classes of v1.2: `{training,validation}/{images,labels}`."""

    terms: ClassVar = "Mapillary Vistas, for non-commercial research by its own terms"
    class_table: ClassVar = CITYSCAPES_19
    remedy: ClassVar = "unpack Mapillary Vistas (mapillary.com/dataset/vistas) into root"

    kind: Literal["mapillary"] = Field(description="Which dataset this is.")

    def scan(self, progress: Progress) -> Listing:
        """List `{training,validation}/images/*.jpg` with `labels/*.png` beside them.

        The archive of v2.0 has the labels of v1.2 in `v1.2/labels` instead.
        """
        parts = [
            self.pair(split, f"{folder}/images", _labels_of(self.folder, folder))
            for split, folder in _FOLDERS
        ]
        return Listing.of(CITYSCAPES_19, MAPILLARY_IDS, parts)


def _labels_of(root: Path, folder: str) -> str:
    newer = f"{folder}/v1.2/labels"
    return newer if (root / newer).is_dir() else f"{folder}/labels"
