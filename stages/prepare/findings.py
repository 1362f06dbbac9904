"""What looks wrong in datasets that can be trained on all the same."""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np

from stages.prepare.config import Domain, Split
from stages.prepare.manifest import ImageRecord, Manifest
from stages.prepare.measure import Measurement
from stages.prepare.sources.listing import Item

_OTHER_SIZE: Final = 4.0
"""How many times larger or smaller a side is that belongs to another kind of picture."""


def findings(
    manifest: Manifest, measured: Mapping[str, Measurement], *, unused_labels: int
) -> tuple[str, ...]:
    """Say what a person should know before training on a manifest; none of it is an error.

    Args:
        manifest: Of both domains.
        measured: What is known of its images beside that, by image id.
        unused_labels: Label files of the target's train split.
    """
    unused = (
        [
            f"target train: {unused_labels} label files are there and are not used; the target "
            "trains without labels"
        ]
        if unused_labels
        else []
    )
    odd = [
        finding
        for domain, split in dict.fromkeys((r.domain, r.split) for r in manifest.records)
        for finding in _odd(manifest, measured, domain, split)
    ]
    return (*_never_labelled(manifest), *unused, *odd, *_in_two_splits(manifest.records))


def count_labels(root: Path, items: Sequence[Item]) -> int:
    """Count the label files that there are of the images of a train split."""
    labels = (item.label for item in items if item.split == "train")
    return sum(label is not None and (root / label).is_file() for label in labels)


def _never_labelled(manifest: Manifest) -> list[str]:
    """Name the classes that the source cannot teach."""
    counted = [r.class_pixels for r in manifest.select(domain="source", split="train")]
    seen = [sum(column) for column in zip(*(c for c in counted if c is not None), strict=True)]
    missing = [name for name, n in zip(manifest.classes.names, seen, strict=True) if not n]
    if not missing:
        return []
    return [
        f"source train: no label shows {', '.join(missing)} ({len(missing)} of "
        f"{len(manifest.classes)} classes): nothing teaches them, and they count in the mean IoU"
    ]


def _odd(
    manifest: Manifest, measured: Mapping[str, Measurement], domain: Domain, split: Split
) -> list[str]:
    """Count the files of a split that are unlike the others, or whose meaning is open."""
    records = manifest.select(domain=domain, split=split)
    found = {r: measured[r.image_id] for r in records}
    side = {r: math.sqrt(math.prod(r.raw_size_px)) for r in records}
    usual = statistics.median_high(side.values())
    one_channel = [r for r in records if found[r].one_channel]
    resampled = [r for r in records if found[r].rim_pixels is not None]
    kinds = [
        (
            one_channel if len(one_channel) < len(records) else [],
            "images have one channel, as class ids have, and the others have colours: leave out "
            "what is no image",
        ),
        (
            [r for r in records if max(side[r] / usual, usual / side[r]) >= _OTHER_SIZE],
            f"images are {_OTHER_SIZE:g} times larger or smaller than usual, as thumbnails are: "
            "leave out what is no image",
        ),
        (
            [r for r in records if found[r].turn_open],
            "images are to be turned by EXIF otherwise than their labels, which fit both ways and "
            "may lie wrong: turn the pixels, or copy the tag to the label",
        ),
        (
            resampled,
            "labels look resampled or lossily compressed: many pixels between two ids have an id "
            f"in between{_mostly_rims(manifest, resampled, found)}: make them anew, by `nearest`",
        ),
    ]
    return [
        f"{domain} {split}: {len(hits)} of {len(records)} {what}; the first is {hits[0].image}"
        for hits, what in kinds
        if hits
    ]


def _mostly_rims(
    manifest: Manifest, records: Sequence[ImageRecord], found: Mapping[ImageRecord, Measurement]
) -> str:
    """Name the classes that labels show mostly between two others."""
    pixels = np.array([r.class_pixels for r in records])
    rims = np.array([found[r].rim_pixels for r in records])
    if not records:
        return ""
    mostly = np.flatnonzero(2 * rims.sum(0) > pixels.sum(0))
    names = ", ".join(manifest.classes.names[i] for i in mostly)
    return f", and most of {names} is such" if names else ""


def _in_two_splits(records: Sequence[ImageRecord]) -> list[str]:
    """Count the files that two splits share, of one domain or of both."""
    copies: dict[str, dict[str, ImageRecord]] = defaultdict(dict)
    for record in records:
        copies[record.sha256].setdefault(f"{record.domain} {record.split}", record)
    shared: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for by_split in copies.values():
        for one, other in combinations(by_split, 2):
            shared[one, other].append((by_split[one].image, by_split[other].image))
    return [
        f"{one} and {other} share {len(pairs)} images, byte for byte; the first is "
        f"{pairs[0][0]}, there {pairs[0][1]}"
        for (one, other), pairs in shared.items()
    ]
