"""Findings about datasets: problems that stop `ssr prepare`, and oddities that do not."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Final

from stages.fields import Domain
from stages.prepare.datasets import SourceConfig
from stages.prepare.datasets.listing import Item, first_names
from stages.prepare.labels import ClassTable
from stages.prepare.manifest import ImageRecord, Manifest
from stages.prepare.scan import Measurement
from stages.prepare.train_ids import UnknownValuesError
from store.errors import DataError

_OTHER_AREA: Final = 16
"""How many times more or fewer pixels another kind of picture has."""


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
    copies = _in_two_splits(manifest.records)
    return (*_never_labelled(manifest), *unused, *manifest.odd, *copies)


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


def odd_files(
    records: Sequence[ImageRecord], measured: Mapping[str, Measurement], classes: ClassTable
) -> tuple[str, ...]:
    """Count the files that are unlike the others of their split, or whose meaning is open.

    Args:
        records: Of all splits.
        measured: What is known of them beside that, by image id.
        classes: Of the labels.
    """
    splits: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in records:
        splits[f"{record.domain} {record.split}"].append(record)
    return tuple(
        f"{split}: {len(hits)} of {len(images)} {what}; the first is {hits[0]}"
        for split, images in splits.items()
        for hits, what in _odd_kinds(images, measured, classes)
        if hits
    )


def _odd_kinds(
    records: Sequence[ImageRecord], measured: Mapping[str, Measurement], classes: ClassTable
) -> Iterator[tuple[Sequence[str | None], str]]:
    """Yield the files of one split that a sentence is about, and the sentence."""
    one_channel = [r.image for r in records if measured[r.image_id].one_channel]
    if len(one_channel) < len(records):
        yield (
            one_channel,
            "images have one channel, as class ids have, and the others have colours: exclude what "
            "is not an image",
        )
    usual = statistics.median_high(math.prod(r.raw_size_px) for r in records)
    areas = [(r, math.prod(r.raw_size_px) / usual) for r in records]
    yield (
        [r.image for r, area in areas if not 1 / _OTHER_AREA < area < _OTHER_AREA],
        f"images have {_OTHER_AREA} times more or fewer pixels than is usual, as thumbnails have: "
        "exclude what is not an image",
    )
    yield (
        [r.image for r in records if measured[r.image_id].turn_open],
        "images are turned by EXIF and their labels are not, or otherwise, and both fit: look "
        "whether they lie on each other; if not, copy the tag to the label",
    )
    resampled = [r for r in records if measured[r.image_id].rim_pixels is not None]
    shown = zip(*(r.class_pixels or () for r in resampled), strict=True)
    rims = zip(*(measured[r.image_id].rim_pixels or () for r in resampled), strict=True)
    mostly = [
        name
        for name, pixels, between in zip(classes.names, shown, rims, strict=False)
        if 2 * sum(between) > sum(pixels)
    ]
    only = f", which is most of what they show of {', '.join(mostly)}" if mostly else ""
    yield (
        [r.label for r in resampled],
        "labels look resampled or lossily compressed: where two ids meet, many pixels hold an id "
        f"in between{only}: make them anew with nearest neighbour and as PNG",
    )


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


def lines_of(
    domain: Domain,
    source: SourceConfig,
    bad: Sequence[tuple[Item, DataError]],
    hints: Sequence[str],
) -> list[str]:
    """Group what is wrong with single files by its cure, the end of every such message.

    Args:
        domain: Of the dataset.
        source: The dataset.
        bad: Images with what is wrong with them or their labels.
        hints: What to do about labels that are not found.

    Returns:
        Lines that begin with the key that names the files' folder.
    """
    groups: dict[tuple[str, str, bool], list[tuple[Item, DataError]]] = {}
    for item, error in bad:
        unlabelled = item.label is not None and not (source.folder / item.label).is_file()
        is_label = unlabelled or str(error).startswith(f"{source.folder / (item.label or '')}: ")
        key = source.key_of(item.split, "labels" if is_label else "images")
        key = f"prepare.{domain}.{key}"
        cause = error.__cause__
        kind = (
            cause.what if isinstance(cause, UnknownValuesError) else str(error).rpartition(": ")[2]
        )
        groups.setdefault((key, kind, unlabelled), []).append((item, error))
    return [
        "; ".join((_line(key, group), *(hints if unlabelled else ())))
        for (key, _, unlabelled), group in groups.items()
    ]


def block_of(lines: Sequence[str]) -> str:
    """Return one line as it is, several under a heading."""
    if len(lines) == 1:
        return lines[0]
    return "\n  ".join((f"{len(lines)} kinds of problems with the data:", *lines))


def _line(key: str, group: Sequence[tuple[Item, DataError]]) -> str:
    (_, first), *rest = group
    causes = [error.__cause__ for _, error in group]
    unknown = [cause for cause in causes if isinstance(cause, UnknownValuesError)]
    text = str(first)
    if rest and len(unknown) == len(group):
        values = sorted({value for cause in unknown for value in cause.values})
        text = text.replace(str(unknown[0]), str(UnknownValuesError(unknown[0].what, values)))
    more = f" ({len(rest)} more: {first_names([item.image for item, _ in rest])})" if rest else ""
    return f"{key}: {text}{more}"
