"""Proposal of the folders, classes and sampling of a user's own dataset, for a person to edit.

Folders are known by their names and by how labels pair with images, classes by what labels hold.
"""

import math
import os
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from PIL import Image

from stages.prepare.datasets.dataset import files_under, pairing_key
from stages.prepare.geometry import Size
from stages.prepare.labels import CITYSCAPES_19, CITYSCAPES_IDS, IGNORE, Color
from stages.prepare.manifest import Manifest
from stages.prepare.pixels import read_label
from store.errors import DataError

MOST_LABELS: Final = 100
"""Label files that are looked at, evenly spaced."""

_BEGIN, _END = "(?:^|[^a-z])", "(?=$|[^a-z]|annot|label|mask|image|img|gt)"
_SPLITS: Final = {
    "train": re.compile(f"{_BEGIN}(train|training){_END}"),
    "val": re.compile(f"{_BEGIN}(val|valid|validation|dev){_END}"),
    "test": re.compile(f"{_BEGIN}(test|testing){_END}"),
}
_LABELS: Final = re.compile(
    "(?<!un)label|mask|annot|ground.?truth|segmentation|semantic|(^|[^a-z])gt([^a-z]|$)|gtfine|gtcoarse"
)
_IMAGES: Final = re.compile("image|(^|[^a-z])img|(^|[^a-z])rgb|leftimg|photo|jpeg|picture|frame")
_LEAST_MATCHED: Final = 0.3  # share of images that need a label for files to count as their labels

_LEAST_CLASSES, _MOST_CLASSES = 2, 255
_BLACK: Final = (0, 0, 0)

_GTA5: Final = (1052, 1914), (720, 1280)
_UNLIKE: Final = 3
"""A value further from its proposal than this factor is reported."""

Value = tuple[int | None, Color | None]
"""What a label file holds: an id, a colour, or an id with its colour in a palette."""


@dataclass(frozen=True, slots=True)
class SplitFolders:
    """Images of a split in a folder, and the folder and files of their labels if there are any.

    Each suffix is what names of images, or of labels, end with and those of the others do not.
    """

    images: str
    files: tuple[str, ...]
    labels: str | None = None
    image_suffix: str = ""
    label_suffix: str = ""
    label_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProposedClass:
    """A class with its share of all pixels that were looked at."""

    name: str
    color: Color
    ids: tuple[int, ...]
    share: float


@dataclass(slots=True)
class ProposedClasses:
    """Classes in the order of their ids or of Cityscapes, if any; values without one; remarks."""

    classes: list[ProposedClass] = field(default_factory=list)
    ignore_ids: list[int] = field(default_factory=list)
    ignore_colors: list[Color] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def find_splits(root: Path) -> dict[str, SplitFolders]:
    """Look for train, val and test in a dataset's folder; images of no split are train's.

    Photos may lie in folders of sequences below those of a split, which labels repeat.

    Raises:
        DataError: A folder cannot be listed.
    """
    images: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    labels: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for file in files_under(root, ".")[0]:
        folder = file.rpartition("/")[0]
        parts = folder.lower().split("/")
        split = next((s for part in parts for s, name in _SPLITS.items() if name.search(part)), "")
        (labels if _LABELS.search(folder.lower()) else images)[split][folder].append(file)
    if not {"train"} & (images.keys() | labels.keys()):
        images["train"], labels["train"] = images[""], labels[""]
    return {split: _split_of(images[split], labels[split]) for split in _SPLITS if images[split]}


def classes_of_splits(root: Path, splits: Iterable[SplitFolders]) -> ProposedClasses:
    """Propose classes from all labels of a dataset; nothing is said where there are none."""
    labelled = [split for split in splits if split.label_files]
    files = sorted({root / file for split in labelled for file in split.label_files})
    return propose_classes(files, suffix=labelled[0].label_suffix) if files else ProposedClasses()


def classes_under(folder: Path) -> ProposedClasses:
    """Propose classes from the labels of a dataset, or of a folder of labels.

    Raises:
        DataError: There are no labels.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder: name one of labels, or a dataset")
    classes = classes_of_splits(folder, find_splits(folder).values())
    if not classes.said:
        everything, _ = files_under(folder, ".")
        named = [f for f in everything if _LABELS.search(f.rpartition("/")[0].lower())]
        files = named or everything
        classes = propose_classes([folder / f for f in files], suffix=_ending_of(files))
    if not classes.classes:
        raise DataError(f"{folder}: {'; '.join(classes.said)}: there are no classes to propose")
    return classes


def propose_classes(files: Sequence[Path], *, suffix: str = "") -> ProposedClasses:
    """Look at some of the label files and propose what their values mean.

    Names are Cityscapes' where most colours are, or where the suffix of the files' stems says
    `labelIds` or `labelTrainIds`; other classes are called `class_3`.
    """
    places = np.unique(np.linspace(0, len(files) - 1, min(len(files), MOST_LABELS)).astype(int))
    with ThreadPoolExecutor() as pool:
        counted = pool.map(_count, (files[i] for i in places))
        looked = [found for found in counted if found is not None]
    said = [f"looked at {len(looked)} of {len(files)} label files"]
    proposed = ProposedClasses(said=said)
    if len(looked) < len(places):
        said.append(f"{len(places) - len(looked)} more cannot be read: `ssr prepare` says why")
    counts = _of_one_kind(sum(looked, Counter()))
    if {color is None for _, color in counts} == {True, False}:
        said.append("some files hold colours and others ids: give the classes their ids too")
        counts = Counter({value: n for value, n in counts.items() if value[1] is not None})
    if len(counts) > _MOST_CLASSES + 1:
        said.append(
            f"they hold {len(counts)} colours: labels that were blended or compressed have no "
            "classes; get the originals"
        )
        return proposed
    names = _names_of(counts, suffix, said)
    ignored = {value for value in counts if value in names and names[value] is None}
    if len(counts) - len(ignored) < _LEAST_CLASSES:
        if looked:
            said.append("they hold too few values for a class table")
        return proposed
    others = sorted(
        counts.keys() - names.keys(),
        key=lambda value: (-counts[value], value[1]) if value[1] else (value[0], _BLACK),
    )
    kept = [value for value in (*names, *others) if value not in ignored]
    for place, (stored, color) in enumerate(kept):
        name = names.get((stored, color)) or f"class_{place if stored is None else stored}"
        share = counts[stored, color] / counts.total()
        ids = () if stored is None else (stored,)
        proposed.classes.append(ProposedClass(name, color or _voc_color(place + 1), ids, share))
    proposed.ignore_ids = sorted(stored for stored, _ in ignored if stored is not None)
    proposed.ignore_colors = sorted(color for _, color in ignored if color is not None)
    return proposed


def sampling_for(raw_px: Size, resized_px: Size) -> tuple[int, float]:
    """Scale DAFormer's `min_pixels` and `min_crop_ratio`, 3000 and 0.5 for GTA5, to other images.

    The first counts raw pixels, the second those of the resized image for each of them: GTA5 at
    twice the size has HRDA's published 2.0.
    """
    published_px, shrunk_px = map(math.prod, _GTA5)
    area_px, used_px = math.prod(raw_px), math.prod(resized_px)
    min_pixels = 3000 * area_px / published_px
    ratio = 0.5 * (used_px / area_px) / (shrunk_px / published_px)
    return int(float(f"{min_pixels:.2g}")), float(f"{ratio:.2g}")


def about_sampling(manifest: Manifest, *, min_pixels: int, min_crop_ratio: float) -> str | None:
    """Say which values of rare class sampling fit the images where those given are far from it."""
    records = [r for r in manifest.select(split="train") if r.class_pixels is not None]
    raw_px = statistics.mode(record.raw_size_px for record in records)
    resized_px = statistics.mode(record.resized_size_px for record in records)
    pixels, ratio = sampling_for(raw_px, resized_px)
    most = map(max, zip(*(r.class_pixels for r in records if r.class_pixels), strict=True))
    pixels = min([pixels, *(n - 1 for n in most if n)])  # every class needs an image
    pairs = ((max(min_pixels, 1), max(pixels, 1)), (min_crop_ratio, ratio))
    if all(fit / _UNLIKE <= given <= fit * _UNLIKE for given, fit in pairs):
        return None
    (height, width), (rows, columns) = raw_px, resized_px
    return (
        f"train.rare_class_sampling: for images of {width}x{height}, used at {columns}x{rows}, set "
        f"min_pixels {pixels} and min_crop_ratio {ratio:g} instead of {min_pixels} and "
        f"{min_crop_ratio:g} (published: 3000 and 0.5 for 1914x1052 at 1280x720)"
    )


def _voc_color(index: int) -> Color:
    """Return the colour that Pascal VOC gives to an index; no two of 256 are alike."""
    red, green, blue = (
        sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
        for channel in range(3)
    )
    return red, green, blue


def _split_of(
    images: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[str]]
) -> SplitFolders:
    named = {folder: files for folder, files in images.items() if _IMAGES.search(folder.lower())}
    chosen = named or images
    files = sorted(file for some in chosen.values() for file in some)
    trees: dict[str, list[str]] = defaultdict(list)
    for folder in labels:
        parts = folder.split("/")
        first = next(i for i, part in enumerate(parts) if _LABELS.search(part.lower()))
        trees["/".join(parts[: first + 1])].append(folder)
    places = _places(chosen)
    found = [
        _pair(place, files, label_place, [f for folder in tree for f in labels[folder]])
        for place in places
        for tree in trees.values()
        for label_place in _places(tree)
    ]
    pngs = [file for file in files if file.lower().endswith(".png")]
    found.append(_pair(places[0], files, places[0], pngs))
    best = max(found, key=lambda one: len(one.label_files))
    if len(best.label_files) < _LEAST_MATCHED * len(files):
        return SplitFolders(places[0], tuple(files))
    return best


def _pair(place: str, images: Sequence[str], labels: str, files: Sequence[str]) -> SplitFolders:
    """Try names as they are, then with a suffix of the labels, then with one of the images too.

    Labels that lie among the images have their names with a suffix of letters.
    """
    among = labels == place
    stems = {pairing_key(file, labels, ""): file for file in files}
    best = SplitFolders(place, tuple(images))
    for image_suffix in ("",) if among else dict.fromkeys(("", _ending_of(images))):
        keys = {pairing_key(file, place, image_suffix) for file in images}
        between = _suffix_between(keys, stems)
        for suffix in ("", between):
            if among and not re.search("[A-Za-z]", suffix):
                continue
            own = tuple(sorted(stems[key + suffix] for key in keys if key + suffix in stems))
            if len(own) > len(best.label_files):
                others = sorted(set(images) - set(own)) if among else images
                best = SplitFolders(place, tuple(others), labels, image_suffix, suffix, own)
    return best


def _suffix_between(keys: Collection[str], stems: Iterable[str]) -> str:
    """Return what most often follows an image's key in the stems of labels; "" without a match.

    Of several that are as frequent, class ids are preferred to colours and instances.
    """
    endings: Counter[str] = Counter()
    for stem in stems:
        for place, character in enumerate(stem):
            ending = stem[place:]
            if not character.isalnum() and "/" not in ending and stem[:place] in keys:
                endings[ending] += 1

    def rank(ending: str) -> tuple[int, bool, bool, int, str]:
        low = ending.lower()
        no_class = any(word in low for word in ("instance", "color", "colour", "depth", "panoptic"))
        return -endings[ending], no_class, "labelids" not in low, len(low), low

    return min(endings, key=rank, default="")


def _ending_of(files: Sequence[str]) -> str:
    """Return what follows the last `_` in all names, as `_leftImg8bit`; "" where they differ."""
    endings = {PurePosixPath(file).stem.rpartition("_")[2] for file in files}
    ending = endings.pop() if len(endings) == 1 else ""
    return f"_{ending}" if re.search("[A-Za-z]", ending) else ""


def _places(folders: Iterable[str]) -> list[str]:
    """Return where a folder of images or labels may begin: above its sequences, or there."""
    listed = list(folders)
    begins = ([_anchor(folder) for folder in listed], [folder or "." for folder in listed])
    return list(dict.fromkeys(os.path.commonpath(some) or "." for some in begins))


def _anchor(folder: str) -> str:
    """Cut a folder below its last part with a meaning: what follows are sequences."""
    parts = folder.split("/")
    kinds = (*_SPLITS.values(), _LABELS, _IMAGES)
    meaningful = [i for i, part in enumerate(parts) if any(k.search(part.lower()) for k in kinds)]
    return "/".join(parts[: meaningful[-1] + 1]) if meaningful else "."


def _count(path: Path) -> Counter[Value] | None:
    """Count the pixels of each value; None where the file cannot be read."""
    try:
        label = read_label(path)
    except DataError:
        return None
    values = label.values if label.opaque is None else label.values[label.opaque][None]
    if not values.size:
        return Counter()
    counted: Any = Image.fromarray(values).getcolors(values.size)  # (pixels, id or colour)
    if label.palette is None:
        is_id = values.ndim == 2
        return Counter({(v, None) if is_id else (None, v): pixels for pixels, v in counted})
    entries = [(v, tuple(label.palette[v].tolist()), pixels) for pixels, v in counted]
    found: Counter[Value] = Counter()
    greys = all(len({*color}) == 1 for _, color, _ in entries)  # are ids
    for stored, color, pixels in entries:
        found[(color[0], None) if greys else (stored, color)] += pixels
    return found


def _of_one_kind(counts: Counter[Value]) -> Counter[Value]:
    """Keep ids and colours of palettes where these agree in all files; else one of the two."""
    paletted = [value for value in counts if None not in value]
    ids, colors = {stored for stored, _ in paletted}, {color for _, color in paletted}
    if len(ids) == len(colors) == len(counts):
        return counts
    by_id = len(ids) == len(paletted) > len(colors)  # such a palette says nothing
    found: Counter[Value] = Counter()
    for (stored, color), pixels in counts.items():
        keeps_id = color is None or (by_id and stored is not None)
        found[(stored, None) if keeps_id else (None, color)] += pixels
    return found


def _names_of(counts: Counter[Value], suffix: str, said: list[str]) -> dict[Value, str | None]:
    """Name the values that a published dataset names, in its order; None is no class."""
    classes: dict[int | Color | None, str | None] = {**dict(enumerate(CITYSCAPES_19.names))}
    known: dict[int | Color | None, str | None] = {}
    if len(counts) > _LEAST_CLASSES:
        known |= {IGNORE: None, _BLACK: None}
    hues = {color for _, color in counts if color} - {_BLACK}
    if 2 * len(hues & CITYSCAPES_IDS.colors.keys()) > len(hues):
        said.append("the colours are those of Cityscapes")
        known |= {color: classes.get(t) for color, t in CITYSCAPES_IDS.colors.items()}
    elif not hues and "labelids" in suffix.lower():
        known |= {stored: classes.get(t) for stored, t in CITYSCAPES_IDS.ids.items()}
    elif not hues and "labeltrainids" in suffix.lower():
        known |= classes
    values = {known_as: value for value in counts for known_as in value if known_as in known}
    return {values[each]: name for each, name in known.items() if each in values}
