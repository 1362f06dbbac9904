"""A class table proposed from what label files hold, for a person to edit."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from stages.prepare.labels import CITYSCAPES_19, CITYSCAPES_IDS, IGNORE, Color
from stages.prepare.palettes import PALETTES, voc_color
from stages.prepare.pixels import read_label
from store.errors import DataError

MOST_LABELS: Final = 100
"""Label files that are looked at, evenly spaced."""

_LEAST_CLASSES, _MOST_CLASSES = 2, 255
_BLACK: Final = (0, 0, 0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProposedClass:
    """A class with its share of all pixels that were looked at."""

    name: str
    color: Color
    ids: tuple[int, ...]
    share: float


@dataclass(frozen=True, slots=True)
class ProposedClasses:
    """A class table.

    Attributes:
        classes: In the order of their ids or of a known palette; empty where none can be proposed.
        ignore_ids: Values without a class.
        ignore_colors: The same of colours.
        said: Sentences about what was looked at, and what is odd.
    """

    classes: tuple[ProposedClass, ...] = ()
    ignore_ids: tuple[int, ...] = ()
    ignore_colors: tuple[Color, ...] = ()
    said: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Pixels:
    """How many pixels of a file have a colour, an id, or an entry (id, colour) of a palette."""

    colors: Counter[Color] = field(default_factory=Counter)
    ids: Counter[int] = field(default_factory=Counter)
    entries: Counter[tuple[int, Color]] = field(default_factory=Counter)


def propose_classes(files: Sequence[Path], *, suffix: str = "") -> ProposedClasses:
    """Look at some of the label files and propose what their values mean.

    Names are those of a known palette, or of Cityscapes where the suffix of the files says
    `labelIds` or `labelTrainIds`; other classes are called `class_3`.

    Args:
        files: All label files.
        suffix: How their stems end.
    """
    places = np.unique(np.linspace(0, len(files) - 1, min(len(files), MOST_LABELS)).astype(int))
    with ThreadPoolExecutor() as pool:
        looked = [found for found in pool.map(_look, (files[i] for i in places)) if found]
    said = [f"looked at {len(looked)} of {len(files)} label files"]
    if len(looked) < len(places):
        said.append(f"{len(places) - len(looked)} more cannot be read: `ssr prepare` says why")
    colors: Counter[Color] = Counter()
    ids: Counter[int] = Counter()
    entries: Counter[tuple[int, Color]] = Counter()
    for found in looked:
        colors += found.colors
        ids += found.ids
        entries += found.entries
    own_ids: dict[Color, int] = {}
    if entries and not colors:
        own_ids = {color: stored for stored, color in entries}
        if len(own_ids) < len(entries):  # a colour of two ids
            own_ids = {}
    if len({stored for stored, _ in entries}) == len(entries) > len({c for _, c in entries}):
        ids += _sum((stored, n) for (stored, _), n in entries.items())  # palettes say nothing
    else:
        colors += _sum((color, n) for (_, color), n in entries.items())
    if colors and ids and not own_ids:
        said.append("some files hold colours and others ids: give the classes their ids too")
    if len(colors) > _MOST_CLASSES:
        said.append(
            f"they hold {len(colors)} colours: labels that were blended or compressed have no "
            "classes; get the originals"
        )
        return ProposedClasses(said=tuple(said))
    proposed = _of_colors(colors, own_ids, said) if colors else _of_ids(ids, suffix)
    if len(proposed.classes) < _LEAST_CLASSES:
        if looked:
            said.append("they hold too few values for a class table")
        return ProposedClasses(said=tuple(said))
    return replace(proposed, said=tuple(said))


def _look(path: Path) -> _Pixels | None:
    try:
        label = read_label(path)
    except DataError:
        return None
    values = label.values if label.opaque is None else label.values[label.opaque][None]
    if values.ndim == 3:
        red, green, blue = np.moveaxis(values.astype(np.int32), -1, 0)
        packed = _count(red << 16 | green << 8 | blue)
        return _Pixels(
            colors=Counter({(c >> 16, c >> 8 & 255, c & 255): n for c, n in packed.items()})
        )
    counts = _count(values)
    if label.palette is None:
        return _Pixels(ids=counts)
    entries = Counter({(i, _color(label.palette[i])): n for i, n in counts.items()})
    if all(len(set(color)) == 1 for _, color in entries):  # greys are ids
        return _Pixels(ids=_sum((color[0], n) for (_, color), n in entries.items()))
    return _Pixels(entries=entries)


def _count(values: NDArray[np.integer[Any]]) -> Counter[int]:
    """Count values by their runs, of which labels have few."""
    flat = values.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] + 1 if flat.size else 0))
    lengths = np.diff(starts, append=flat.size)
    kinds, place = np.unique(flat[starts], return_inverse=True)
    counts = np.bincount(place, lengths, minlength=len(kinds)).astype(int)
    return Counter(dict(zip(kinds.tolist(), counts.tolist(), strict=True)))


def _sum(counts: Iterable[tuple[T, int]]) -> Counter[T]:
    total: Counter[T] = Counter()
    for value, count in counts:
        total[value] += count
    return total


def _color(values: NDArray[np.uint8]) -> Color:
    red, green, blue = values.tolist()
    return red, green, blue


def _of_colors(
    colors: Mapping[Color, int], own_ids: Mapping[Color, int], said: list[str]
) -> ProposedClasses:
    hues = colors.keys() - {_BLACK}  # black is in every palette
    known, palette = max(PALETTES.items(), key=lambda entry: len(hues & entry[1].keys()))
    names: dict[Color, str | None] = {_BLACK: None} if len(colors) > 2 else {}
    if 2 * len(hues & palette.keys()) > len(hues):
        said.append(f"the colours are those of {known}")
        names |= palette
    order = list(names)
    ignored = [color for color in colors if color in names and names[color] is None]
    total = sum(colors.values())
    classes = [
        ProposedClass(
            names.get(color) or f"class_{own_ids.get(color, place)}",
            color,
            (own_ids[color],) if color in own_ids else (),
            colors[color] / total,
        )
        for place, color in enumerate(
            sorted(
                colors.keys() - set(ignored),
                key=lambda c: (order.index(c) if c in names else len(order), -colors[c], c),
            )
        )
    ]
    ignored_ids = sorted(own_ids[color] for color in ignored if color in own_ids)
    return ProposedClasses(tuple(classes), tuple(ignored_ids), tuple(sorted(ignored)))


def _of_ids(ids: Mapping[int, int], suffix: str) -> ProposedClasses:
    names: dict[int, str | None] = {IGNORE: None} if len(ids) > 2 else {}
    if "labelids" in suffix.lower():
        names |= {
            stored: None if train_id == IGNORE else CITYSCAPES_19.names[train_id]
            for stored, train_id in CITYSCAPES_IDS.ids.items()
        }
    elif "labeltrainids" in suffix.lower():
        names |= dict(enumerate(CITYSCAPES_19.names))
    ignored = [stored for stored in ids if stored in names and names[stored] is None]
    total = sum(ids.values())
    classes = [
        ProposedClass(
            names.get(stored) or f"class_{stored}",
            voc_color(place),
            (stored,),
            ids[stored] / total,
        )
        for place, stored in enumerate(sorted(ids.keys() - set(ignored)), start=1)
    ]
    return ProposedClasses(tuple(classes), tuple(sorted(ignored)))
