"""The prepare stage: two datasets to one manifest."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stages.prepare.config import Domain, PrepareConfig, Split, keys_of
from stages.prepare.findings import count_labels, findings
from stages.prepare.geometry import Size
from stages.prepare.manifest import ImageRecord, Manifest
from stages.prepare.measure import MeasurementCache
from stages.prepare.records import demand_classes, describe, select
from stages.prepare.sources.listing import Item, Progress
from stages.prepare.sources.scan import scan
from store.errors import DataError


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """One split of one domain in numbers.

    Attributes:
        domain: "source" or "target".
        split: "train" or "val".
        images: How many there are.
        labelled: How many of them have a label that is used.
        raw_sizes_px: The sizes of the files, most frequent first.
        working_sizes_px: The sizes after resize and padding, likewise.
        class_shares: Share of each class among the pixels that have one, None without labels.
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
    """What the stage found.

    Attributes:
        manifest: As written to `path`.
        path: The manifest file.
        changed: Whether it had to be written; False where it said the same before.
        splits: One summary per domain and split.
        findings: Sentences about what looks wrong and is no error.
    """

    manifest: Manifest
    path: Path
    changed: bool
    splits: tuple[SplitSummary, ...]
    findings: tuple[str, ...]


def run(
    config: PrepareConfig,
    *,
    at_least_px: int,
    skip_bad: bool,
    out: Path,
    cache: Path,
    progress: Progress,
) -> PrepareResult:
    """List and check both datasets, and write the manifest.

    Every image and label is decoded once; later runs look only at files that changed. A manifest
    that says the same is not rewritten. On an error the old manifest stays.

    Labels of the target's train split never enter the manifest, even where there are files: no
    later stage can use them by mistake.

    Args:
        config: The datasets.
        at_least_px: Side of the crop, to which smaller images are padded.
        skip_bad: Leave out images that cannot be read, or whose label cannot, and list them.
        out: The manifest file.
        cache: File that remembers what was measured; may be deleted at any time.
        progress: Told (done, total, what).

    Raises:
        DataError: Data is missing, damaged or inconsistent; names the first bad file.
    """
    bad: dict[str, DataError] = {}
    listings = {d: scan(source, progress=progress) for d, source in config.domains.items()}
    classes = listings["source"].classes
    for domain, listing in listings.items():
        demand_classes(listing, classes, f"prepare.{domain}")
    selected = {
        domain: select(f"prepare.{domain}", listings[domain].items, source)
        for domain, source in config.domains.items()
    }
    items = {domain: _to_train_on(domain, images) for domain, images in selected.items()}
    target = config.roots.get("target")
    unused_labels = 0 if target is None else count_labels(target, selected["target"])
    measurements = MeasurementCache(cache)
    complete = False
    try:
        records = [
            record
            for domain, source in config.domains.items()
            for record in describe(
                domain,
                items[domain],
                source,
                listings[domain],
                what=domain,
                at_least_px=at_least_px,
                cache=measurements,
                bad=bad,
                progress=progress,
            )
        ]
        complete = True
    finally:
        measurements.save(forget_others=complete)
    _demand_good(config, records, bad, skip_bad=skip_bad)
    manifest = Manifest(
        classes=classes,
        records=tuple(sorted(records, key=lambda r: (r.domain, r.split, r.image_id))),
        labels={domain: listing.labels for domain, listing in listings.items()},
        skipped={image_id: str(error) for image_id, error in bad.items()},
        sources={domain: keys_of(source) for domain, source in config.domains.items()},
    )
    changed = not _says(out, manifest)
    if changed:
        manifest.write(out)
    return PrepareResult(
        manifest, out, changed, summarise(manifest), findings(manifest, unused_labels=unused_labels)
    )


def summarise(manifest: Manifest) -> tuple[SplitSummary, ...]:
    """Count images, sizes and classes per domain and split."""
    return tuple(
        _summary(domain, split, manifest.select(domain=domain, split=split))
        for domain, split in dict.fromkeys((r.domain, r.split) for r in manifest.records)
    )


def _to_train_on(domain: Domain, items: Sequence[Item]) -> list[Item]:
    """Demand images to train on; forget the labels of those of the target."""
    if not any(item.split == "train" for item in items):
        raise DataError(f"prepare.{domain} leaves no image to train on: hold out or exclude fewer")
    return [
        replace(item, label=None) if (domain, item.split) == ("target", "train") else item
        for item in items
    ]


def _demand_good(
    config: PrepareConfig,
    records: Sequence[ImageRecord],
    bad: Mapping[str, DataError],
    *,
    skip_bad: bool,
) -> None:
    if not bad:
        return
    first = next(iter(bad.values()))
    if not skip_bad:
        others = f" ({len(bad) - 1} more bad files)" if len(bad) > 1 else ""
        raise DataError(f"{first}{others}") from first
    for domain in config.domains:
        if not any((record.domain, record.split) == (domain, "train") for record in records):
            raise DataError(f"prepare.{domain} has no image to train on that can be read: {first}")


def _says(path: Path, manifest: Manifest) -> bool:
    """Tell whether the file holds an equal manifest and its digest, whatever library wrote it."""
    try:
        return Manifest.read(path, with_digest=True) == manifest
    except DataError:
        return False


def _summary(domain: Domain, split: Split, records: Sequence[ImageRecord]) -> SplitSummary:
    counted = [record.class_pixels for record in records if record.class_pixels is not None]
    totals = [sum(column) for column in zip(*counted, strict=True)]
    return SplitSummary(
        domain=domain,
        split=split,
        images=len(records),
        labelled=len(counted),
        raw_sizes_px=_by_frequency([record.raw_size_px for record in records]),
        working_sizes_px=_by_frequency([record.working_size_px for record in records]),
        class_shares=tuple(n / max(sum(totals), 1) for n in totals) if counted else None,
    )


def _by_frequency(sizes: Sequence[Size]) -> tuple[Size, ...]:
    return tuple(size for size, _ in Counter(sizes).most_common())
