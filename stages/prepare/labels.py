"""Class tables of datasets, what the values in their label files mean, and their train ids."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from store.errors import DataError

IGNORE: Final = 255
"""Train id of pixels without a class: no loss, no statistics, no metric."""

Color = tuple[int, int, int]
"""Red, green and blue, 0..255."""


@dataclass(frozen=True)
class ClassTable:
    """The classes in the order of their train ids, each with a colour for pictures."""

    names: tuple[str, ...]
    palette: tuple[Color, ...]

    @classmethod
    def of(cls, colors: Mapping[str, Color]) -> "ClassTable":
        """Return the table of names with their colours."""
        return cls(tuple(colors), tuple(colors.values()))

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

    @property
    def has_ids(self) -> bool:
        """Whether an id means a class."""
        return any(train_id != IGNORE for train_id in self.ids.values())

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


CITYSCAPES_19: Final = ClassTable.of(
    {
        "road": (128, 64, 128),
        "sidewalk": (244, 35, 232),
        "building": (70, 70, 70),
        "wall": (102, 102, 156),
        "fence": (190, 153, 153),
        "pole": (153, 153, 153),
        "traffic light": (250, 170, 30),
        "traffic sign": (220, 220, 0),
        "vegetation": (107, 142, 35),
        "terrain": (152, 251, 152),
        "sky": (70, 130, 180),
        "person": (220, 20, 60),
        "rider": (255, 0, 0),
        "car": (0, 0, 142),
        "truck": (0, 0, 70),
        "bus": (0, 60, 100),
        "train": (0, 80, 100),
        "motorcycle": (0, 0, 230),
        "bicycle": (119, 11, 32),
    }
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


def named_as_in_cityscapes(names: Mapping[str, str]) -> ClassTable:
    """Return a table of names with the colours of the classes of Cityscapes beside them."""
    colors = dict(zip(CITYSCAPES_19.names, CITYSCAPES_19.palette, strict=True))
    return ClassTable.of({name: colors[theirs] for name, theirs in names.items()})


def train_id_table(classes: ClassTable, *, void: Collection[int] = ()) -> LabelTable:
    """Return the table of files that store train ids: `void` ids and 255 are ignored."""
    own = {train_id: train_id for train_id in range(len(classes))}
    return LabelTable(own | dict.fromkeys((*void, IGNORE), IGNORE))


class UnknownValuesError(DataError):
    """Label ids or colours that a class table does not know."""

    def __init__(self, what: str, values: Sequence[int | Color]) -> None:
        """Take `what` they are, "label ids" or "label colours", and which, sorted."""
        more = f" and {len(values) - 8} more" if len(values) > 8 else ""
        listed = ", ".join(str(value) for value in values[:8]) + more
        super().__init__(f"{what} {listed} are not in the class table")
        self.what, self.values = what, values


@dataclass(frozen=True, slots=True)
class StoredLabel:
    """A label as its file holds it, upright.

    Attributes:
        values: uint8 (H, W) ids or (H, W, 3) colours.
        palette: uint8 (256, 3), the colours of the ids of a paletted file, else None.
        opaque: bool (H, W), False where the file is transparent; None where it is nowhere.
        orientation: EXIF orientation that it was turned upright by, 1 if it needed no turn.
    """

    values: NDArray[np.uint8]
    palette: NDArray[np.uint8] | None = None
    opaque: NDArray[np.bool_] | None = None
    orientation: int = 1


def to_train_ids(label: StoredLabel, table: LabelTable) -> NDArray[np.uint8]:
    """Convert a label; transparent pixels have no class.

    A paletted file is read by its ids, and by its colours where the table knows these and not
    the ids. Where the two name different classes, as after a PNG optimiser, it is refused.

    Returns:
        uint8 (H, W) train ids and IGNORE.

    Raises:
        DataError: There are ids or colours that the table does not know, lists them; or ids
            and palette are at odds.
    """
    values = label.values if label.opaque is None else label.values[label.opaque][None]
    if values.ndim == 3:
        converted = _from_colors(values, table)
    elif label.palette is None:
        converted = _from_ids(values, table)
    else:
        converted = _from_palette(values, label.palette, table)
    if label.opaque is None:
        return converted
    train_ids = np.full(label.opaque.shape, IGNORE, np.uint8)
    train_ids[label.opaque] = converted[0]
    return train_ids


def _from_ids(stored: NDArray[np.uint8], table: LabelTable) -> NDArray[np.uint8]:
    if not table.has_ids:
        raise DataError("the label holds class ids, but the classes have no ids, only colours")
    known, train_ids = _look_up_ids(stored, table)
    if not known.all():
        raise UnknownValuesError("label ids", np.unique(stored[~known]).tolist())
    return train_ids


def _from_colors(stored: NDArray[np.uint8], table: LabelTable) -> NDArray[np.uint8]:
    if not table.colors:
        raise DataError("the label holds RGB colours, but this dataset stores class ids")
    known, train_ids = _look_up_colors(stored, table)
    if not known.all():
        colors = np.unique(stored[~known], axis=0).tolist()
        raise UnknownValuesError("label colours", [(r, g, b) for r, g, b in colors])
    return train_ids


def _from_palette(
    ids: NDArray[np.uint8], palette: NDArray[np.uint8], table: LabelTable
) -> NDArray[np.uint8]:
    used = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
    colors, greys = palette[used], palette[used, 0]
    all_grey = bool((colors == greys[:, None]).all())
    if all_grey and (greys == used).all():  # a greyscale file in other words
        return _from_ids(ids, table)
    known, by_id = _look_up_ids(used, table)
    named, by_color = _look_up_colors(colors, table)
    if all_grey and not named.all():  # then the greys are ids, whatever their index
        named, by_color = _look_up_ids(greys, table)
    classes, colored = by_id != IGNORE, by_color != IGNORE
    at_odds = known & named & (by_id != by_color)
    swapped, agreeing = at_odds & classes & colored, known & named & classes & ~at_odds
    if named.all():
        # A colour may paint more than its class: GTA5's ids 18 and 34 are ignored, and look
        # like pole and car. No class looks ignored.
        contradicts = bool((at_odds & classes).any()) or (
            table.has_ids and np.count_nonzero(at_odds) > np.count_nonzero(agreeing)
        )
    else:  # a palette of other classes, as VOC's, may meet one colour by chance
        by_chance = np.count_nonzero(swapped) == 1 and np.count_nonzero(~named) > 1
        contradicts = bool(swapped.any()) and not by_chance
    if contradicts:
        odd = np.flatnonzero(swapped if swapped.any() else at_odds)
        raise DataError(
            f"the palette is at odds with the ids, as after a PNG optimiser: {used[odd[0]]} is "
            f"{_class_of(by_id[odd[0]])} by its id and {_class_of(by_color[odd[0]])} by its "
            f"colour (so are {odd.size} of {used.size} ids): convert it to RGB or greyscale, "
            "or give the classes no ids"
        )
    if table.has_ids and (known.all() or not (named.all() and (by_color != IGNORE).any())):
        return _from_ids(ids, table)
    train_ids = np.full(256, IGNORE, np.uint8)
    train_ids[used] = by_color if named.all() else _from_colors(colors, table)
    converted: NDArray[np.uint8] = train_ids[ids]
    return converted


def _look_up_ids(
    stored: NDArray[np.integer[Any]], table: LabelTable
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Tell which ids (...) the table knows, and their train ids."""
    known = np.isin(np.arange(256), [*table.ids])
    train_ids = np.array([table.ids.get(i, IGNORE) for i in range(256)], np.uint8)
    return known[stored], train_ids[stored]


def _look_up_colors(
    colors: NDArray[np.uint8], table: LabelTable
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Tell which colours (..., 3) the table knows, and their train ids."""
    packed = sorted(((r << 16) | (g << 8) | b, t) for (r, g, b), t in table.colors.items())
    # Before them a key that no colour has, so that an empty table can be searched.
    keys, train_ids = np.array([(-1, IGNORE), *packed], np.int32).T
    red, green, blue = np.moveaxis(colors.astype(np.int32), -1, 0)
    wanted = (red << 16) | (green << 8) | blue
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return keys[place] == wanted, train_ids[place].astype(np.uint8)


def _class_of(train_id: int) -> str:
    return "no class" if train_id == IGNORE else f"class {train_id}"
