"""The folders of a dataset that are images and labels of train and val, told by their names."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from stages.prepare.datasets.listing import (
    IMAGE_SUFFIXES,
    files_under,
    pairing_key,
    suffix_between,
)

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
_LEAST_MATCHED: Final = 0.3
"""Share of images that need a label for files to count as their labels."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Labels of some images: their folder, what names end with, the files, images with one."""

    labels: str
    image_suffix: str
    label_suffix: str
    files: tuple[str, ...]
    matched: int


@dataclass(frozen=True, slots=True)
class SplitFolders:
    """One split: its folder of images, the images, and their labels if there are any."""

    images: str
    files: tuple[str, ...]
    pairing: Pairing | None


def find_splits(root: Path) -> dict[str, SplitFolders]:
    """Look for train, val and test; images of no split are train's.

    Photos may lie in folders of sequences below those of a split, which labels repeat.

    Args:
        root: The dataset's folder.

    Raises:
        DataError: A folder cannot be listed.
    """
    places: dict[str, dict[bool, dict[str, list[str]]]] = defaultdict(
        lambda: {False: defaultdict(list), True: defaultdict(list)}
    )
    for file in files_under(root, ".", IMAGE_SUFFIXES)[0]:
        folder = file.rpartition("/")[0]
        parts = folder.lower().split("/") if folder else []
        split = next((s for part in parts for s, name in _SPLITS.items() if name.search(part)), "")
        places[split][is_in_labels(file)][folder].append(file)
    if "train" not in places and "" in places:
        places["train"] = places.pop("")
    found: dict[str, SplitFolders] = {}
    for split in ("train", "val", "test"):
        if places[split][False]:
            found[split] = _split_of(places[split][False], places[split][True])
    return found


def ending_of(files: Sequence[str]) -> str:
    """Return what follows the last `_` in all names, as `_leftImg8bit`; "" where they differ."""
    endings = {PurePosixPath(file).stem.rpartition("_")[2] for file in files}
    ending = endings.pop() if len(endings) == 1 else ""
    return f"_{ending}" if re.search("[A-Za-z]", ending) else ""


def is_in_labels(file: str) -> bool:
    """Tell whether a folder above a file is named like one of labels."""
    return any(_LABELS.search(part) for part in file.lower().split("/")[:-1])


def _split_of(
    images: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[str]]
) -> SplitFolders:
    named = {folder: files for folder, files in images.items() if _IMAGES.search(folder.lower())}
    chosen = named or images
    files = sorted(file for some in chosen.values() for file in some)
    trees: dict[str, list[str]] = defaultdict(list)
    for folder in labels:
        trees[_label_tree(folder)].append(folder)
    places = _places(chosen)
    pairings = [
        (place, _pair(place, files, label_place, [f for folder in tree for f in labels[folder]]))
        for place in places
        for tree in trees.values()
        for label_place in _places(tree)
    ]
    pairings.append((places[0], _pair_among(places[0], files)))
    place, best = max(pairings, key=lambda one: one[1].matched)
    if best.matched < _LEAST_MATCHED * len(files) or not best.matched:
        return SplitFolders(places[0], tuple(files), None)
    if best.labels == place:
        files = sorted(set(files) - set(best.files))
    return SplitFolders(place, tuple(files), best)


def _pair(place: str, images: Sequence[str], labels: str, files: Sequence[str]) -> Pairing:
    """Try names as they are, then with a suffix of the labels, then with one of the images too."""
    stems = {pairing_key(file, labels, ""): file for file in files}
    best = Pairing(labels, "", "", (), 0)
    for image_suffix in dict.fromkeys(("", ending_of(images))):
        keys = {pairing_key(file, place, image_suffix) for file in images}
        for label_suffix in ("", suffix_between(keys, stems)):
            if label_suffix is None:
                continue
            matched = keys & {
                s.removesuffix(label_suffix) for s in stems if s.endswith(label_suffix)
            }
            if len(matched) > best.matched:
                own = tuple(sorted(stems[key + label_suffix] for key in matched))
                best = Pairing(labels, image_suffix, label_suffix, own, len(matched))
    return best


def _pair_among(place: str, files: Sequence[str]) -> Pairing:
    """Look for labels that lie among the images, under their names with a suffix."""
    stems = {pairing_key(file, place, ""): file for file in files if file.lower().endswith(".png")}
    keys = {pairing_key(file, place, "") for file in files}
    suffix = suffix_between(keys, stems)
    if suffix is None or not re.search("[A-Za-z]", suffix):
        return Pairing(place, "", "", (), 0)
    own = sorted(stems[key + suffix] for key in keys if key + suffix in stems)
    return Pairing(place, "", suffix, tuple(own), len(own))


def _anchor(folder: str) -> str:
    """Cut a folder below its last part with a meaning: what follows are sequences."""
    parts = folder.split("/")
    kinds = (*_SPLITS.values(), _LABELS, _IMAGES)
    meaningful = [i for i, part in enumerate(parts) if any(k.search(part.lower()) for k in kinds)]
    return "/".join(parts[: meaningful[-1] + 1]) if meaningful else "."


def _label_tree(folder: str) -> str:
    parts = folder.split("/")
    first = next(i for i, part in enumerate(parts) if _LABELS.search(part.lower()))
    return "/".join(parts[: first + 1])


def _places(folders: Iterable[str]) -> list[str]:
    """Return where a folder of images or labels may begin: above its sequences, or there."""
    listed = list(folders)
    begins = ([_anchor(folder) for folder in listed], [folder or "." for folder in listed])
    return list(dict.fromkeys(os.path.commonpath(some) or "." for some in begins))
