"""Colours that published datasets give their classes, to name the classes of other label files."""

from collections.abc import Mapping
from typing import Final

from stages.prepare.labels import CITYSCAPES_19, CITYSCAPES_IDS, IGNORE, Color

# The 32 classes of CamVid (label_colors.txt), and the pavement of SegNet's version with 11.
_CAMVID: Final = {
    "animal": 0x408040,
    "archway": 0xC00080,
    "bicyclist": 0x0080C0,
    "bridge": 0x008040,
    "building": 0x800000,
    "car": 0x400080,
    "cart": 0x4000C0,
    "child": 0xC08040,
    "pole": 0xC0C080,
    "fence": 0x404080,
    "lane marking": 0x8000C0,
    "other lane marking": 0xC00040,
    "text": 0x808040,
    "motorcycle": 0xC000C0,
    "other moving": 0x804040,
    "parking block": 0x40C080,
    "pedestrian": 0x404000,
    "road": 0x804080,
    "road shoulder": 0x8080C0,
    "sidewalk": 0x0000C0,
    "sign": 0xC08080,
    "sky": 0x808080,
    "pickup truck": 0x4080C0,
    "traffic cone": 0x000040,
    "traffic light": 0x004040,
    "train": 0xC04080,
    "tree": 0x808000,
    "truck or bus": 0xC080C0,
    "tunnel": 0x400040,
    "other vegetation": 0xC0C000,
    "wall": 0x40C000,
    "pavement": 0x3C28DE,
}

# In the order of their ids.
_VOC: Final = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep"),
    *("sofa", "train", "tv monitor"),
)
_VOC_BORDER: Final = (224, 224, 192)

THINGS: Final = {
    *("person", "pedestrian", "child", "rider", "bicyclist", "car", "truck", "bus", "train"),
    *("motorcycle", "motorbike", "bicycle", "animal"),
}
"""Names of countable things, which the feature distance is for."""


def voc_color(index: int) -> Color:
    """Return the colour that Pascal VOC gives to an index; no two of 256 are alike."""
    red, green, blue = (
        sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
        for channel in range(3)
    )
    return red, green, blue


PALETTES: Final[Mapping[str, Mapping[Color, str | None]]] = {
    "Cityscapes": {
        color: None if train_id == IGNORE else CITYSCAPES_19.names[train_id]
        for color, train_id in sorted(CITYSCAPES_IDS.colors.items(), key=lambda entry: entry[1])
    },
    "CamVid": {(0, 0, 0): None}
    | {(c >> 16, c >> 8 & 255, c & 255): name for name, c in _CAMVID.items()},
    "Pascal VOC": {voc_color(index): name for index, name in enumerate(_VOC)} | {_VOC_BORDER: None},
}
"""Colour -> name by dataset; None for pixels without a class."""
