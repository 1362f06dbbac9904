"""The prepare stage: two datasets to one manifest, with all problems and oddities of the data."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Final

from stages.fields import Domain, Split
from stages.prepare.config import PrepareConfig
from stages.prepare.datasets import SourceConfig
from stages.prepare.datasets.dataset import Item, Listing, Progress, first_names
from stages.prepare.geometry import Size
from stages.prepare.labels import ClassTable, UnknownValuesError
from stages.prepare.manifest import ImageRecord, Manifest
from stages.prepare.scan import (
    Measurement,
    MeasurementCache,
    image_id_of,
    labelled_items,
    require_classes,
    scan,
    select,
)
from store.errors import DataError, DataUnreadableError

_OTHER_AREA: Final = 16
"""How many times more or fewer pixels another kind of picture has."""


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """One split of one domain in numbers; sizes are in order of frequency.

    `class_shares` are those of the pixels that have a class, None without labels.
    """

    domain: Domain
    split: Split
    images: int
    labelled: int
    raw_sizes_px: tuple[Size, ...]
    working_sizes_px: tuple[Size, ...]
    class_shares: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """The manifest and whether its file had to be written; what looks wrong and is not an error."""

    manifest: Manifest
    path: Path
    changed: bool
    splits: tuple[SplitSummary, ...]
    findings: tuple[str, ...]


def run(config: PrepareConfig, *, out: Path, cache: Path, progress: Progress) -> PrepareResult:
    """List and check both datasets, and write the manifest.

    Every image and label is decoded once; later runs look only at files that changed. A manifest
    that says the same is not rewritten. On an error the old manifest stays.

    Labels of the target's train split enter the manifest for the images that `labelled` names, and
    never for others, even where there are files: no later stage can use them by mistake.

    Args:
        config: Section `prepare`.
        out: The manifest file.
        cache: File that remembers what was measured; may be deleted at any time.
        progress: Called with (done, total, what).

    Raises:
        DataError: Data is missing, damaged or inconsistent; has a line for each kind of problem.
    """
    problems: list[str] = []
    listings, items = _list(config, problems, progress)
    unused = 0
    if config.target is not None and "target" in items:
        try:
            labelled = labelled_items(items["target"], config.target)
        except DataError as error:
            problems.append(str(error))
            labelled = frozenset()
        others = [i for i in items["target"] if i.split == "train" and i not in labelled]
        unused = sum((config.target.folder / i.label).is_file() for i in others if i.label)
        items["target"] = [
            replace(item, label=None) if item.split == "train" and item not in labelled else item
            for item in items["target"]
        ]
    measurements = MeasurementCache(cache)
    records: list[ImageRecord] = []
    bad: dict[str, DataError] = {}
    measured: dict[str, Measurement] = {}
    try:
        for domain, chosen in items.items():
            source, listing = config.domains[domain], listings[domain]
            found = scan(
                domain,
                chosen,
                source,
                listing,
                what=domain,
                at_least_px=config.pad_to_px,
                cache=measurements,
                progress=progress,
            )
            records += found.records
            measured |= found.measured
            bad |= found.bad
            by_id = {image_id_of(domain, item): item for item in chosen}
            named = [
                (by_id[image_id], error)
                for image_id, error in found.bad.items()
                # what could not be looked at may be sound: never left out
                if config.on_bad_image == "fail" or isinstance(error, DataUnreadableError)
            ]
            problems += _grouped(domain, source, named, listing.hints)
    finally:
        measurements.save()
    if problems:
        heading = f"{len(problems)} kinds of problems with the data:"
        raise DataError(problems[0] if len(problems) == 1 else "\n  ".join((heading, *problems)))
    for domain in config.domains if bad else ():
        if not any((record.domain, record.split) == (domain, "train") for record in records):
            first = next(iter(bad.values()))
            raise DataError(f"prepare.{domain} has no image to train on that can be read: {first}")
    classes = listings["source"].classes
    manifest = Manifest(
        classes=classes,
        records=tuple(sorted(records, key=lambda r: (r.domain, r.split, r.image_id))),
        labels={domain: listing.labels for domain, listing in listings.items()},
        skipped={image_id: str(error) for image_id, error in bad.items()},
        sources={domain: source.identity for domain, source in config.domains.items()},
        odd=_odd_files(records, measured, classes),
    )
    changed = manifest.update(out)
    noted = (
        f"{domain}: {line}" for domain, listing in listings.items() for line in listing.findings
    )
    said = (*noted, *findings(manifest, unused_labels=unused))
    return PrepareResult(manifest, out, changed, summarise(manifest), said)


def summarise(manifest: Manifest) -> tuple[SplitSummary, ...]:
    """Count images, sizes and classes per domain and split."""
    summaries = []
    for domain, split in dict.fromkeys((r.domain, r.split) for r in manifest.records):
        records = manifest.select(domain=domain, split=split)
        counted = [record.class_pixels for record in records if record.class_pixels is not None]
        totals = [sum(column) for column in zip(*counted, strict=True)]
        raw = Counter(record.raw_size_px for record in records)
        working = Counter(record.working_size_px for record in records)
        summary = SplitSummary(
            domain=domain,
            split=split,
            images=len(records),
            labelled=len(counted),
            raw_sizes_px=tuple(size for size, _ in raw.most_common()),
            working_sizes_px=tuple(size for size, _ in working.most_common()),
            class_shares=tuple(n / max(sum(totals), 1) for n in totals) if counted else None,
        )
        summaries.append(summary)
    return tuple(summaries)


def findings(manifest: Manifest, *, unused_labels: int) -> tuple[str, ...]:
    """Say what a person should know before training on a manifest; none of it is an error.

    `unused_labels` is the number of label files of the target's train split.
    """
    said: list[str] = []
    counted = [r.class_pixels for r in manifest.select(domain="source", split="train")]
    seen = [sum(column) for column in zip(*(c for c in counted if c is not None), strict=True)]
    missing = [name for name, n in zip(manifest.classes.names, seen, strict=True) if not n]
    if missing:
        said.append(
            f"source train: no label shows {', '.join(missing)} ({len(missing)} of {len(seen)} "
            "classes): nothing teaches them, and they count in the mean IoU"
        )
    if unused_labels:
        said.append(
            f"target train: {unused_labels} label files are there and are not used; the target "
            "trains without them"
        )
    said += manifest.odd
    copies: dict[str, dict[str, ImageRecord]] = defaultdict(dict)
    for record in manifest.records:
        copies[record.sha256].setdefault(f"{record.domain} {record.split}", record)
    shared: dict[tuple[str, str], list[str]] = defaultdict(list)
    for by_split in copies.values():
        for one, other in combinations(by_split, 2):
            shared[one, other].append(f"{by_split[one].image}, there {by_split[other].image}")
    for (one, other), pairs in shared.items():
        copied = f"share {len(pairs)} images, byte for byte; the first is {pairs[0]}"
        said.append(f"{one} and {other} {copied}")
    return tuple(said)


def _list(
    config: PrepareConfig, problems: list[str], progress: Progress
) -> tuple[dict[Domain, Listing], dict[Domain, list[Item]]]:
    """List the domains that can be listed, and choose their images; note what is wrong."""

    @contextmanager
    def noting(begin: str = "") -> Iterator[None]:
        try:
            yield
        except DataError as error:
            problems.append(f"{begin}{error}")

    listings: dict[Domain, Listing] = {}
    items: dict[Domain, list[Item]] = {}
    for domain, source in config.domains.items():
        key = f"prepare.{domain}"
        with noting(f"{key}: "):
            listing = listings[domain] = source.scan(progress)
            problems += (f"{key}: {line}" for line in listing.problems)
            with noting():
                items[domain] = select(key, listing.items, source)
                trained_on = any(item.split == "train" for item in items[domain])
                if not listing.problems and not trained_on:
                    raise DataError(f"{key} leaves no image to train on: hold out or exclude fewer")
    if len(listings) == len(config.domains):
        for domain, listing in listings.items():
            with noting():
                require_classes(listing, listings["source"].classes, f"prepare.{domain}")
    return listings, items


def _odd_files(
    records: Sequence[ImageRecord], measured: Mapping[str, Measurement], classes: ClassTable
) -> tuple[str, ...]:
    """Count the files that are unlike the others of their split, or whose meaning is open."""
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


def _grouped(
    domain: Domain,
    source: SourceConfig,
    bad: Sequence[tuple[Item, DataError]],
    hints: Sequence[str],
) -> list[str]:
    """Group what is wrong with single files by its cure, the end of every such message.

    The lines begin with the key that names the files' folder; `hints` say what to do about labels
    that are not found.
    """
    groups: dict[tuple[str, str, bool], list[tuple[Item, DataError]]] = defaultdict(list)
    for item, error in bad:
        unlabelled = item.label is not None and not (source.folder / item.label).is_file()
        is_label = unlabelled or str(error).startswith(f"{source.folder / (item.label or '')}: ")
        key = source.key_of(item.split, "labels" if is_label else "images")
        cause = error.__cause__
        kind = (
            cause.what if isinstance(cause, UnknownValuesError) else str(error).rpartition(": ")[2]
        )
        groups[f"prepare.{domain}.{key}", kind, unlabelled].append((item, error))
    lines = []
    for (key, _, unlabelled), group in groups.items():
        (_, first), *rest = group
        text = str(first)
        if isinstance(unknown := first.__cause__, UnknownValuesError):
            causes = (error.__cause__ for _, error in group)
            of_all = [
                value for c in causes if isinstance(c, UnknownValuesError) for value in c.values
            ]
            every = UnknownValuesError(unknown.what, sorted(set(of_all)))
            text = text.replace(str(unknown), str(every))
        if rest:
            text = f"{text} ({len(rest)} more: {first_names([item.image for item, _ in rest])})"
        lines.append("; ".join((f"{key}: {text}", *(hints if unlabelled else ()))))
    return lines
