"""Class tables of datasets, and what the values in their label files mean."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

IGNORE: Final = 255
"""Train id of pixels without a class: no loss, no statistics, no metric."""

Color = tuple[int, int, int]
"""Red, green and blue, 0..255."""


@dataclass(frozen=True)
class ClassTable:
    """The classes in the order of their train ids, each with a colour for pictures."""

    names: tuple[str, ...]
    palette: tuple[Color, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class LabelTable:
    """What the values in a dataset's label files mean.

    Attributes:
        ids: Stored id -> train id, IGNORE where the id is known but has no class. An id that is not
            a key is an error in the data, never silently ignored.
        colors: The same for files that store colours; empty where a dataset has none.
    """

    ids: Mapping[int, int]
    colors: Mapping[Color, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, list[list[int]]]:
        """Return the table as JSON values, in an order of its own; `from_json` reads them."""
        return {
            "ids": [[stored, train_id] for stored, train_id in sorted(self.ids.items())],
            "colors": [[*color, train_id] for color, train_id in sorted(self.colors.items())],
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "LabelTable":
        """Build the table that `to_json` gave."""
        return cls(
            ids=dict(table["ids"]),
            colors={(r, g, b): train_id for r, g, b, train_id in table["colors"]},
        )


CITYSCAPES_19: Final = ClassTable(
    names=(
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light"),
        *("traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck"),
        *("bus", "train", "motorcycle", "bicycle"),
    ),
    palette=(
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ),
)
"""The 19 classes of Cityscapes and GTA5 in train id order."""

# Cityscapes label id -> train id; the other known ids have no class.
_TRAIN_ID_OF: Final = {
    **{7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11},
    **{25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18},
}

# Colours of Cityscapes' and GTA5's classes without a train id: void, dynamic, ground, parking,
# rail track, guard rail, bridge, tunnel, caravan, trailer, and static as GTA5 paints it.
_COLORS_WITHOUT_CLASS: Final = (
    (0, 0, 0),
    (111, 74, 0),
    (81, 0, 81),
    (250, 170, 160),
    (230, 150, 140),
    (180, 165, 180),
    (150, 100, 100),
    (150, 120, 90),
    (0, 0, 90),
    (0, 0, 110),
    (20, 20, 20),
)

CITYSCAPES_IDS: Final = LabelTable(
    # 0..33 are Cityscapes' own; its licence plate, -1, is 34 in GTA5 and wraps to 255 in a byte.
    ids={stored: _TRAIN_ID_OF.get(stored, IGNORE) for stored in (*range(35), IGNORE)},
    # Licence plates share their colour with cars, pole groups with poles: colours cannot tell them
    # apart, ids can, so RGB copies of the labels differ there from the official files.
    colors=dict.fromkeys(_COLORS_WITHOUT_CLASS, IGNORE)
    | {color: train_id for train_id, color in enumerate(CITYSCAPES_19.palette)},
)
"""Cityscapes' labelIds, also stored by GTA5's paletted files; colours for RGB mirrors of GTA5."""


def train_id_table(classes: ClassTable, *, void: Collection[int] = ()) -> LabelTable:
    """Return the table of files that store train ids: `void` ids and 255 are ignored."""
    own = {train_id: train_id for train_id in range(len(classes))}
    return LabelTable(own | dict.fromkeys((*void, IGNORE), IGNORE))
