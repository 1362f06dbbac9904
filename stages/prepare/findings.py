"""What looks wrong in datasets that can be trained on all the same."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from stages.prepare.manifest import ImageRecord, Manifest
from stages.prepare.sources.listing import Item


def findings(manifest: Manifest, *, unused_labels: int) -> tuple[str, ...]:
    """Say what a person should know before training on a manifest; none of it is an error.

    Args:
        manifest: Of both domains.
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
    return (*_never_labelled(manifest), *unused, *_in_two_splits(manifest.records))


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
