"""What a student is measured on: labelled images, wherever they are listed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.evaluate.config import EvaluateConfig
from stages.prepare.datasets import SourceConfig
from stages.prepare.datasets.listing import Progress
from stages.prepare.labels import ClassTable, LabelTable
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from stages.prepare.scan import MeasurementCache, require_classes, scan, select
from store.errors import DataError


@dataclass(frozen=True)
class Dataset:
    """Labelled images under one root.

    Attributes:
        name: "target/val" for a split of the manifest, else its name in the params.
        records: The images, at least one.
        root: Where their paths begin.
        labels: How their labels are read.
        unlabelled: Images that were left out because they have no label.
    """

    name: str
    records: tuple[ImageRecord, ...]
    root: Path
    labels: LabelTable
    unlabelled: int = 0


def of_manifest(
    manifest: Manifest, domain: Domain, config: EvaluateConfig, roots: Mapping[Domain, Path]
) -> Dataset:
    """Take the labelled images of a domain's split.

    Raises:
        DataError: There are none.
    """
    split = manifest.select(domain=domain, split=config.split)
    records = tuple(record for record in split if record.label is not None)
    if not records:
        raise DataError(
            f"none of the {len(split)} images of {domain}/{config.split} in the manifest "
            "has a label to measure against: add labels there, or set evaluate.domain and "
            "evaluate.split to images that have some"
        )
    unlabelled = len(split) - len(records)
    name = f"{domain}/{config.split}"
    return Dataset(name, records, roots[domain], manifest.labels[domain], unlabelled)


def of_source(
    source: SourceConfig,
    name: str,
    *,
    classes: ClassTable,
    at_least_px: int,
    cache: Path,
    progress: Progress,
) -> Dataset:
    """List and check the val split of a dataset of `evaluate.datasets`.

    Args:
        source: The dataset.
        name: Its key there.
        classes: Those that it must have.
        at_least_px: Side of the crop, to which smaller images are padded.
        cache: File that remembers what was measured; may be deleted at any time.
        progress: Told (done, total, what).

    Raises:
        DataError: Data is missing, damaged or inconsistent, or of other classes.
    """
    key = f"evaluate.datasets.{name}"
    listing = source.scan(progress).sound()
    require_classes(listing, classes, key)
    items = [item for item in listing.items if item.split == "val" and item.label is not None]
    if not items:
        raise DataError(f"{key} has no labelled val split: name its folders, or remove the dataset")
    measurements = MeasurementCache(cache)
    try:
        found = scan(
            "target",
            select(key, items, source, also_known=listing.items),
            source,
            listing,
            what=name,
            at_least_px=at_least_px,
            cache=measurements,
            progress=progress,
        )
    finally:
        measurements.save(forget_others=False)
    for error in found.bad.values():
        raise error
    if not found.records:
        raise DataError(f"{key}.exclude leaves no image to measure on: exclude fewer")
    ordered = tuple(sorted(found.records, key=lambda record: record.image_id))
    return Dataset(name, ordered, source.folder, listing.labels)
