"""Scan of a dataset: its images are chosen, decoded once, measured and described as records.

What was measured is remembered, so that a later scan reads only the files that changed.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from stages.fields import Domain
from stages.prepare.datasets import SourceConfig
from stages.prepare.datasets.dataset import Item, Listing, Progress
from stages.prepare.geometry import Size, fit_size, working_size
from stages.prepare.labels import ClassTable, LabelTable, to_train_ids
from stages.prepare.manifest import ImageRecord
from stages.prepare.pixels import decode_image, decode_label, read_bytes
from store.atomic import write_bytes
from store.errors import DataError
from store.fingerprint import fingerprint_of, sha256

# Raise when a measurement of unchanged files may come out differently.
_FORMAT: Final = b"6"

# Pixels that hold an id in between, for each at an edge of two ids: up to 4 in 100 in CamVid's
# labels, up to 8 where nearest has shrunk them to 192x144; 7 to 15 after OpenCV's bilinear
# shrinking, of which those below 10 are missed, more after its enlarging, after Pillow's and after
# JPEG. Ids that differ by 1 have none in between.
_RESAMPLED_SHARE: Final = 0.1
_EDGE_PIXELS: Final = 50  # fewer tell nothing
_EVERY: Final = 4  # row that is looked at


@dataclass(frozen=True, slots=True)
class Measurement:
    """Facts of an image and its label; see `ImageRecord`.

    Attributes:
        one_channel: Whether the image file is greyscale or paletted, as files of ids are.
        turn_open: Whether image and label differ in EXIF orientation and the sizes fit both ways.
        resampled: Whether the label looks resampled.
    """

    raw_size_px: Size
    sha256: str
    class_pixels: tuple[int, ...] | None
    label_sha256: str | None
    one_channel: bool
    turn_open: bool
    resampled: bool


_ENTRIES: Final = TypeAdapter(dict[str, tuple[str, Measurement]])
"""Cache: paths of an image and its label -> state of the files, and what was measured then."""


def require_classes(listing: Listing, wanted: ClassTable, key: str) -> None:
    """Refuse a dataset at `key` in the params whose classes are not the source's, in their order.

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


def select(key: str, items: Sequence[Item], source: SourceConfig) -> list[Item]:
    """Leave out what the configuration at `key` excludes; require unique names.

    Raises:
        DataError: An image to exclude does not exist, or two have one name.
    """
    excluded = frozenset(getattr(source, "exclude", ()))
    if unknown := excluded - {item.stem for item in items}:
        raise DataError(
            f"{key}.exclude names {min(unknown)}, but there is no such image in "
            f"{source.folder}: write paths relative to root, without suffix"
        )
    kept = [item for item in items if item.stem not in excluded]
    for item in kept:
        if item.stem.encode(errors="ignore").decode() != item.stem:
            raise DataError(
                f"{key}.root {source.folder}: the name {item.image!a} is not UTF-8: rename the file"
            )
    twice = [stem for stem, times in Counter(item.stem for item in kept).items() if times > 1]
    if twice:
        first, second, *_ = (f"{i.image} ({i.split})" for i in kept if i.stem == twice[0])
        raise DataError(
            f"{key}.root {source.folder}: {first} and {second} have the same name: rename "
            "or remove one, an image belongs to one split"
        )
    return kept


def without_labels(items: Sequence[Item], target: SourceConfig) -> tuple[list[Item], int]:
    """Take the labels from the target's train split, but for the images that `labelled` chooses.

    Of N images that have a label file, sorted, a number takes the first in van der Corput's order:
    0, 1/2, 1/4, 3/4, 1/8, ... of N. So they are evenly spread, and more images hold all that fewer
    do. A list names images by id or stem.

    Returns:
        The images, and how many label files are not used.

    Raises:
        DataError: There are fewer labels, or a named image or its label does not exist.
    """
    key = "prepare.target.labelled"
    train = sorted((item for item in items if item.split == "train"), key=lambda item: item.stem)
    labelled = [item for item in train if item.label and (target.folder / item.label).is_file()]
    if isinstance(target.labelled, int):
        if target.labelled > len(labelled):
            raise DataError(
                f"{key} is {target.labelled}, but {len(labelled)} of {len(train)} images to train "
                f"on have a label in {target.folder}: lower it, or add labels where "
                f"prepare.target.{target.key_of('train', 'labels')} says"
            )
        bits = max(len(labelled) - 1, 1).bit_length()
        mirrored = (int(f"{place:0{bits}b}"[::-1], 2) for place in range(1 << bits))
        places = dict.fromkeys(place * len(labelled) >> bits for place in mirrored)
        chosen = {labelled[place] for place in list(places)[: target.labelled]}
    else:
        by_name = {name: i for i in labelled for name in (i.stem, image_id_of("target", i))}
        for name in target.labelled:
            if name not in by_name:
                raise DataError(
                    f"{key} names {name}, but no such image to train on has a label in "
                    f"{target.folder}: write paths relative to root, without suffix, or add it"
                )
        chosen = {by_name[name] for name in target.labelled}
    return [
        replace(item, label=None) if item.split == "train" and item not in chosen else item
        for item in items
    ], len(labelled) - len(chosen)


def image_id_of(what: str, item: Item) -> str:
    """Return the id of an image of a domain or dataset."""
    return f"{what}/{item.split}/{item.stem}"


def scan(
    domain: Domain,
    items: Sequence[Item],
    source: SourceConfig,
    listing: Listing,
    *,
    what: str,
    at_least_px: int,
    cache: Path,
    progress: Progress,
) -> tuple[list[tuple[ImageRecord, Measurement]], list[tuple[Item, DataError]]]:
    """Decode images and labels, in threads and but for those that the cache knows; describe them.

    `items` are of `listing`, without labels where these are not wanted. Image ids begin with
    `what`; smaller images are padded to `at_least_px`. The file `cache` holds measurements by path,
    size and times of the files, of any scans. It only saves time: a missing, damaged or older one
    is taken as empty.

    Returns:
        What can be read, and what cannot.
    """
    labels, classes = listing.labels, len(listing.classes)
    table, root = fingerprint_of([classes, labels.to_json()]), source.folder
    files = [(root / item.image, root / item.label if item.label else None) for item in items]
    # Taken before the files are read: one that changes meanwhile is measured again next time.
    states = [f"{_stat(image)} {_stat(label)} {table}" for image, label in files]
    keys = [f"{image!a}|{label!a}" for image, label in files]
    kept = _read_cache(cache)
    unknown = [n for n, key in enumerate(keys) if key not in kept or kept[key][0] != states[n]]
    errors: dict[int, DataError] = {}

    def attempt(place: int) -> Measurement | DataError:
        try:
            return _measure(*files[place], labels, classes)
        except DataError as error:
            return error

    pool = ThreadPoolExecutor()
    try:
        results = zip(unknown, pool.map(attempt, unknown), strict=True)
        for done, (place, result) in enumerate(results, start=1):
            if isinstance(result, DataError):
                errors[place] = result
            else:
                kept[keys[place]] = (states[place], result)
            progress(done, len(unknown), f"checking {what} images")
    finally:
        pool.shutdown(cancel_futures=True)
        if unknown:
            body = _ENTRIES.dump_json(kept)
            write_bytes(cache, sha256(_FORMAT + body).encode() + b"\n" + body)

    good = []
    for place, item in enumerate(items):
        if place in errors:
            continue
        _, facts = kept[keys[place]]
        resized = fit_size(facts.raw_size_px, source.fit_px)
        record = ImageRecord(
            image_id=image_id_of(what, item),
            domain=domain,
            split=item.split,
            image=item.image,
            label=item.label,
            raw_size_px=facts.raw_size_px,
            resized_size_px=resized,
            working_size_px=working_size(resized, at_least_px),
            sha256=facts.sha256,
            class_pixels=facts.class_pixels,
            label_sha256=facts.label_sha256,
        )
        good.append((record, facts))
    return good, [(items[place], error) for place, error in errors.items()]


def _measure(path: Path, label_path: Path | None, labels: LabelTable, classes: int) -> Measurement:
    """Read an image and its label completely; DataError where they are damaged or at odds.

    Its message begins with the path of the file that is.
    """
    data = read_bytes(path)
    image = decode_image(data, path)
    height, width, _ = image.rgb.shape
    counts = label_sha256 = None
    turn_open = resampled = False
    if label_path is not None:
        if not label_path.is_file():
            raise DataError(
                f"{label_path}: {path} has no label there: add it, exclude the image or, of kind "
                "`folder`, correct label_suffix"
            )
        label_data = read_bytes(label_path)
        label_sha256 = sha256(label_data)
        label = decode_label(label_data, label_path)
        if label.values.shape[:2] != (height, width):
            label = decode_label(label_data, label_path, orientation=image.orientation)
        rows, columns = label.values.shape[:2]
        if (rows, columns) != (height, width):
            raise DataError(
                f"{label_path}: is {columns}x{rows}, but its image {path} "
                f"is {width}x{height}: replace one of them or exclude the image"
            )
        try:
            train_ids = to_train_ids(label, labels)
        except DataError as error:
            raise DataError(
                f"{label_path}: {error}: correct the label or, of kind `folder`, the "
                "class table (`ssr classes DIR` prints one)"
            ) from error
        counts = tuple(np.bincount(train_ids.ravel(), minlength=256)[:classes].tolist())
        same_shape = (image.orientation > 4) == (label.orientation > 4) or height == width
        turn_open = image.orientation != label.orientation and same_shape
        resampled = label.values.ndim == 2 and _looks_resampled(label.values)
    return Measurement(
        raw_size_px=(height, width),
        sha256=sha256(data),
        class_pixels=counts,
        label_sha256=label_sha256,
        one_channel=image.one_channel,
        turn_open=turn_open,
        resampled=resampled,
    )


def _looks_resampled(ids: NDArray[np.uint8]) -> bool:
    """Tell labels (H, W) that were resampled or lossily compressed, by some of their rows.

    At edges they hold ids between those of both sides, which mean anything. A pole or a lane has
    mostly the same on both sides, or an id that lies outside.
    """
    rows = slice(2, -2, _EVERY)
    here = ids[rows, 2:-2]
    between = np.zeros(here.shape, np.bool_)
    edges = 0
    for one, other in (
        (ids[rows, :-4], ids[rows, 4:]),  # left and right
        (ids[:-4:_EVERY, 2:-2], ids[4::_EVERY, 2:-2]),  # above and below
    ):
        low, high = np.minimum(one, other), np.maximum(one, other)
        between |= (low < here) & (here < high)
        edges += int(np.count_nonzero(high - low > 1))
    found = int(np.count_nonzero(between))
    return edges >= _EDGE_PIXELS and found >= _RESAMPLED_SHARE * edges


def _read_cache(path: Path) -> dict[str, tuple[str, Measurement]]:
    with suppress(OSError, ValueError):
        digest, _, body = path.read_bytes().partition(b"\n")
        if digest == sha256(_FORMAT + body).encode():
            return _ENTRIES.validate_json(body)
    return {}


def _stat(path: Path | None) -> str:
    """Return what changes when a file is replaced, edited or touched; its content is not read."""
    if path is None:
        return "-"
    try:
        stat = path.stat()
    except OSError:
        return "missing"  # never cached: measuring such a file fails
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
