"""From the images of a dataset to records of the manifest."""

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest

from stages.prepare.config import Domain, FileSource, SourceConfig, root_of
from stages.prepare.datasets.listing import Item, Listing, Progress
from stages.prepare.geometry import fit_size, working_size
from stages.prepare.labels import ClassTable
from stages.prepare.manifest import ImageRecord
from stages.prepare.measure import Measurement, MeasurementCache, Pair, measure_all
from store.errors import DataError


def demand_classes(listing: Listing, wanted: ClassTable, key: str) -> None:
    """Refuse a dataset whose classes are not those of the source, in their order.

    Args:
        listing: Of the dataset.
        wanted: Classes of the source.
        key: Where the dataset stands in the params.

    Raises:
        DataError: Names the first class that differs.
    """
    pairs = zip_longest(wanted.names, listing.classes.names, fillvalue="none")
    for train_id, (name, found) in enumerate(pairs):
        if found != name:
            raise DataError(
                f"prepare.source and {key} need the same classes in the same order, but class "
                f"{train_id} is {name} in source and {found} in {key.rpartition('.')[2]}"
            )


def select(
    key: str, items: Sequence[Item], source: SourceConfig, *, also_known: Sequence[Item] = ()
) -> list[Item]:
    """Leave out what the configuration excludes; demand unique names.

    Args:
        key: Where the dataset stands in the params.
        items: Images of the splits that are wanted.
        source: The dataset.
        also_known: Images that `exclude` may name too.

    Raises:
        DataError: An image to exclude does not exist, or two have one name.
    """
    excluded = frozenset(source.exclude if isinstance(source, FileSource) else ())
    unknown = excluded - {item.stem for item in (*items, *also_known)}
    if unknown:
        raise DataError(
            f"{key}.exclude names {min(unknown)}, but there is no such image in "
            f"{root_of(source)}: write paths relative to root, without suffix"
        )
    kept = [item for item in items if item.stem not in excluded]
    for item in kept:
        if not _is_utf8(item.stem):
            raise DataError(
                f"{key}.root {root_of(source)}: the name {item.image!a} is not UTF-8: rename the "
                "file"
            )
    twice = [stem for stem, times in Counter(item.stem for item in kept).items() if times > 1]
    if twice:
        first, second, *_ = (f"{i.image} ({i.split})" for i in kept if i.stem == twice[0])
        more = f", and {len(twice) - 1} more pairs" if len(twice) > 1 else ""
        raise DataError(
            f"{key}.root {root_of(source)}: {first} and {second} have the same name{more}: rename "
            "or remove one, an image belongs to one split"
        )
    return kept


def image_id_of(what: str, item: Item) -> str:
    """Return the id of an image of a domain or dataset."""
    return f"{what}/{item.split}/{item.stem}"


def describe(
    domain: Domain,
    items: Sequence[Item],
    source: SourceConfig,
    listing: Listing,
    *,
    what: str,
    at_least_px: int,
    cache: MeasurementCache,
    bad: dict[str, DataError],
    measured: dict[str, Measurement],
    progress: Progress,
) -> list[ImageRecord]:
    """Decode images and labels and describe them.

    Args:
        domain: Of the records.
        items: The images, with labels where these are wanted.
        source: Their dataset.
        listing: Its classes and the code of its labels.
        what: Beginning of the image ids, and what progress calls them.
        at_least_px: Side of the crop, to which smaller images are padded.
        cache: Remembers unchanged files.
        bad: Receives what is wrong with images that cannot be read, by image id.
        measured: Receives what else is known of the others, by image id.
        progress: Told (done, total, what).
    """
    root = root_of(source)
    measurements = measure_all(
        [Pair(root / item.image, root / item.label if item.label else None) for item in items],
        labels=listing.labels,
        classes=len(listing.classes),
        cache=cache,
        progress=progress,
        what=f"checking {what} images",
    )
    records = []
    for item, measurement in zip(items, measurements, strict=True):
        image_id = image_id_of(what, item)
        if isinstance(measurement, DataError):
            bad[image_id] = measurement
            continue
        measured[image_id] = measurement
        resized = fit_size(measurement.raw_size_px, source.fit_px)
        records.append(
            ImageRecord(
                image_id=image_id,
                domain=domain,
                split=item.split,
                image=item.image,
                label=item.label,
                raw_size_px=measurement.raw_size_px,
                resized_size_px=resized,
                working_size_px=working_size(resized, at_least_px),
                sha256=measurement.sha256,
                class_pixels=measurement.class_pixels,
                label_sha256=measurement.label_sha256,
            )
        )
    return records


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
