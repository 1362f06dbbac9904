"""Mapillary Vistas with the classes of v1.2: 18,000 + 2,000 photographs of all sizes.

Labels are paletted PNGs of 66 ids; the palette is not looked at.
"""

import re
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

# The first rule that has a part of the name decides; a class's own name comes before all. There is
# no official mapping: these are the rules of Rein's evaluation (arXiv 2312.04265).
_PARTS: Final = (
    ("traffic sign", r"trafficsign|front|back"),
    ("train", r"onrail"),
    ("rider", r"cyclist|rider"),
    ("pole", r"pole|streetlight"),
    ("sidewalk", r"curb|pedestrianarea"),
    ("road", r"crosswalkplain|parking|bikelane|servicelane|lanemarking"),
)


def train_id_of(name: str) -> int:
    """Return which of Cityscapes' 19 classes a name means; IGNORE where no rule knows it."""
    plain = re.sub("[ -]", "", name.lower())
    for train_id, own in enumerate(CITYSCAPES_19.names):
        if plain == own.replace(" ", ""):
            return train_id
    found = (own for own, parts in _PARTS if re.search(parts, plain))
    first = next(found, None)
    return IGNORE if first is None else CITYSCAPES_19.names.index(first)


MAPILLARY_IDS: Final = LabelTable({stored: train_id_of(name) for stored, name in enumerate(NAMES)})
"""Ids of v1.2 to the 19 classes of Cityscapes."""


class Config(FileDataset):
    """Mapillary Vistas with the 66 classes of v1.2: `{training,validation}/{images,labels}`."""

    terms: ClassVar = "Mapillary Vistas, for non-commercial research by its own terms"
    class_table: ClassVar = CITYSCAPES_19
    remedy: ClassVar = "unpack Mapillary Vistas (mapillary.com/dataset/vistas) into root"

    kind: Literal["mapillary"] = Field(description="Which dataset this is.")

    def scan(self, progress: Progress) -> Listing:
        """List images with their labels, which the archive of v2.0 has in `v1.2/labels`."""
        listing = Listing(CITYSCAPES_19, MAPILLARY_IDS)
        for split, folder in _FOLDERS:
            newer = f"{folder}/v1.2/labels"
            labels = newer if (self.folder / newer).is_dir() else f"{folder}/labels"
            self.pair(listing, split, f"{folder}/images", labels)
        return listing
