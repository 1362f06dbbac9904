"""The prepare stage: two datasets to one manifest."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from stages.fields import Domain, Split
from stages.prepare.config import PrepareConfig
from stages.prepare.datasets.listing import Item, Listing, Progress
from stages.prepare.findings import count_labels, findings, lines_of, odd_files
from stages.prepare.geometry import Size
from stages.prepare.manifest import ImageRecord, Manifest
from stages.prepare.scan import (
    Measurement,
    MeasurementCache,
    image_id_of,
    require_classes,
    scan,
    select,
)
from store.errors import DataError, DataUnreadableError


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
        out: The manifest file.
        cache: File that remembers what was measured; may be deleted at any time.
        progress: Called with (done, total, what).

    Raises:
        DataError: Data is missing, damaged or inconsistent; has a line for each kind of problem.
    """
    problems: list[str] = []
    listings, items = _list(config, problems, progress)
    target = config.roots.get("target")
    unused_labels = 0 if target is None else count_labels(target, items.get("target", ()))
    if "target" in items:
        items["target"] = _without_labels_to_train_on(items["target"])
    measurements = MeasurementCache(cache)
    records: list[ImageRecord] = []
    bad: dict[str, DataError] = {}
    measured: dict[str, Measurement] = {}
    complete = False
    try:
        for domain, chosen in items.items():
            source = config.domains[domain]
            found = scan(
                domain,
                chosen,
                source,
                listings[domain],
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
                if config.on_bad_image == "fail"
                or isinstance(error, DataUnreadableError)  # which may be sound
            ]
            if named:
                problems += lines_of(domain, source, named, listings[domain].hints)
        complete = not problems
    finally:
        measurements.save(forget_others=complete)
    if problems:
        heading = f"{len(problems)} kinds of problems with the data:"
        raise DataError(problems[0] if len(problems) == 1 else "\n  ".join((heading, *problems)))
    _require_images(config, records, bad)
    classes = listings["source"].classes
    manifest = Manifest(
        classes=classes,
        records=tuple(sorted(records, key=lambda r: (r.domain, r.split, r.image_id))),
        labels={domain: listing.labels for domain, listing in listings.items()},
        skipped={image_id: str(error) for image_id, error in bad.items()},
        sources={domain: source.identity for domain, source in config.domains.items()},
        odd=odd_files(records, measured, classes),
    )
    changed = not _says(out, manifest)
    if changed:
        manifest.write(out)
    noted = (
        f"{domain}: {line}" for domain, listing in listings.items() for line in listing.findings
    )
    said = (*noted, *findings(manifest, unused_labels=unused_labels))
    return PrepareResult(manifest, out, changed, summarise(manifest), said)


def summarise(manifest: Manifest) -> tuple[SplitSummary, ...]:
    """Count images, sizes and classes per domain and split."""
    return tuple(
        _summary(domain, split, manifest.select(domain=domain, split=split))
        for domain, split in dict.fromkeys((r.domain, r.split) for r in manifest.records)
    )


def _list(
    config: PrepareConfig, problems: list[str], progress: Progress
) -> tuple[dict[Domain, Listing], dict[Domain, list[Item]]]:
    """List the domains that can be listed, and choose their images; note what is wrong."""
    listings: dict[Domain, Listing] = {}
    items: dict[Domain, list[Item]] = {}
    for domain, source in config.domains.items():
        with _noting(problems, f"prepare.{domain}: "):
            listing = listings[domain] = source.scan(progress)
            problems += (f"prepare.{domain}: {line}" for line in listing.problems)
            with _noting(problems):
                items[domain] = select(f"prepare.{domain}", listing.items, source)
                if not listing.problems:
                    _require_images_to_train_on(domain, items[domain])
    if len(listings) == len(config.domains):
        for domain, listing in listings.items():
            with _noting(problems):
                require_classes(listing, listings["source"].classes, f"prepare.{domain}")
    return listings, items


@contextmanager
def _noting(problems: list[str], begin: str = "") -> Iterator[None]:
    """Keep what is wrong for the report of all problems."""
    try:
        yield
    except DataError as error:
        problems.append(f"{begin}{error}")


def _require_images_to_train_on(domain: Domain, items: Sequence[Item]) -> None:
    if not any(item.split == "train" for item in items):
        raise DataError(f"prepare.{domain} leaves no image to train on: hold out or exclude fewer")


def _without_labels_to_train_on(items: Sequence[Item]) -> list[Item]:
    return [replace(item, label=None) if item.split == "train" else item for item in items]


def _require_images(
    config: PrepareConfig, records: Sequence[ImageRecord], bad: Mapping[str, DataError]
) -> None:
    for domain in config.domains if bad else ():
        if not any((record.domain, record.split) == (domain, "train") for record in records):
            first = next(iter(bad.values()))
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
