"""What the manifest says about the pixels of an image and its label, read once and remembered."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stages.prepare.datasets.listing import Progress
from stages.prepare.geometry import Size
from stages.prepare.labels import LabelTable, class_pixels
from stages.prepare.pixels import decode_image, decode_label, read_bytes
from store.atomic import write_bytes
from store.errors import DataError

# Raise when a measurement of unchanged files may come out differently.
_FORMAT: Final = 4

# Pixels that hold an id in between, for each at an edge of two ids: up to 4 in 100 in CamVid's
# labels, up to 8 where nearest has shrunk them to 192x144; 7 to 15 after OpenCV's bilinear
# shrinking, of which those below 10 are missed, more after its enlarging, after Pillow's and after
# JPEG. Ids that differ by 1 have none in between.
_RESAMPLED_SHARE: Final = 0.1
_EDGE_PIXELS: Final = 50  # fewer tell nothing
_EVERY: Final = 4  # row that is looked at


@dataclass(frozen=True, slots=True)
class Pair:
    """An image file and, where it counts, its label file."""

    image: Path
    label: Path | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """Facts of one pair; those of the label are None without one, its pixels at raw resolution.

    Attributes:
        raw_size_px: Of the image, upright.
        sha256: Of the image file.
        class_pixels: Pixels per class.
        label_sha256: Of the label file.
        one_channel: Whether the image file is greyscale or paletted, as files of ids are.
        turn_open: Whether image and label differ in EXIF orientation and the sizes fit both ways.
        rim_pixels: Pixels per class that `rims` finds; None unless the label looks resampled.
    """

    raw_size_px: Size
    sha256: str
    class_pixels: tuple[int, ...] | None
    label_sha256: str | None
    one_channel: bool
    turn_open: bool
    rim_pixels: tuple[int, ...] | None


def measure(pair: Pair, *, labels: LabelTable, classes: int) -> Measurement:
    """Read a pair completely.

    Raises:
        DataError: A file is missing, damaged or no image; sizes differ; label values are unknown.
    """
    data = read_bytes(pair.image)
    image = decode_image(data, pair.image)
    height, width, _ = image.rgb.shape
    counts = label_sha256 = rim_pixels = None
    turn_open = False
    if pair.label is not None:
        if not pair.label.is_file():
            if pair.label.is_symlink() or pair.label.exists():
                raise DataError(
                    f"{pair.label}: is no regular file, or a link to none: replace it or exclude "
                    "the image"
                )
            raise DataError(
                f"{pair.image}: has no label at {pair.label}: add it or exclude the image"
            )
        label_data = read_bytes(pair.label)
        label_sha256 = sha256(label_data).hexdigest()
        label = decode_label(label_data, pair.label)
        if label.values.shape[:2] == (width, height) != (height, width):
            label = decode_label(label_data, pair.label, orientation=image.orientation)
        rows, columns = label.values.shape[:2]
        if (rows, columns) != (height, width):
            raise DataError(
                f"{pair.label}: is {columns}x{rows}, but its image {pair.image} "
                f"is {width}x{height}: replace one of them or exclude the image"
            )
        try:
            train_ids = labels.to_train_ids(label)
        except DataError as error:
            raise DataError(
                f"{pair.label}: {error}: correct the label or, of kind `folder`, the "
                "class table (`ssr classes DIR` prints one)"
            ) from error
        counts = class_pixels(train_ids, classes)
        same_shape = (image.orientation > 4) == (label.orientation > 4) or height == width
        turn_open = image.orientation != label.orientation and same_shape
        if label.values.ndim == 2:
            rim_pixels = rims(label.values, train_ids, classes)
    return Measurement(
        raw_size_px=(height, width),
        sha256=sha256(data).hexdigest(),
        class_pixels=counts,
        label_sha256=label_sha256,
        one_channel=image.one_channel,
        turn_open=turn_open,
        rim_pixels=rim_pixels,
    )


def rims(
    ids: NDArray[np.uint8], train_ids: NDArray[np.uint8], classes: int
) -> tuple[int, ...] | None:
    """Count the pixels that a resampled or lossily compressed label shows at edges of two ids.

    Such a label holds ids between those of both sides, which mean anything. A pole or a lane has
    mostly the same on both sides, or an id that lies outside.

    Args:
        ids: uint8 (H, W) as stored.
        train_ids: uint8 (H, W), the same in classes.
        classes: How many there are.

    Returns:
        Pixels per class, estimated from some of the rows; None where the label looks sound.
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
    if edges < _EDGE_PIXELS or found < _RESAMPLED_SHARE * edges:
        return None
    return tuple(_EVERY * n for n in class_pixels(train_ids[rows, 2:-2][between], classes))


def measure_all(
    pairs: Sequence[Pair],
    *,
    labels: LabelTable,
    classes: int,
    cache: "MeasurementCache",
    progress: Progress,
    what: str,
) -> list[Measurement | DataError]:
    """Measure pairs in threads, except those that the cache knows.

    Returns:
        For each pair what was measured, or what is wrong with it.
    """
    table = sha256(json.dumps([classes, labels.to_json()]).encode()).hexdigest()
    # Taken before the files are read: one that changes meanwhile is measured again next time.
    states = [_state(pair, table) for pair in pairs]
    found: list[Measurement | DataError | None] = [
        cache.get(pair, state) for pair, state in zip(pairs, states, strict=True)
    ]
    unknown = [place for place, measurement in enumerate(found) if measurement is None]

    def attempt(place: int) -> Measurement | DataError:
        try:
            return measure(pairs[place], labels=labels, classes=classes)
        except DataError as error:
            return error

    pool = ThreadPoolExecutor()
    try:
        results = zip(unknown, pool.map(attempt, unknown), strict=True)
        for done, (place, result) in enumerate(results, start=1):
            found[place] = result
            if isinstance(result, Measurement):
                cache.put(pairs[place], states[place], result)
            progress(done, len(unknown), what)
    finally:
        pool.shutdown(cancel_futures=True)
    return [measurement for measurement in found if measurement is not None]


class MeasurementCache:
    """Measurements by path, size and times of the files; a file that changed is measured again.

    It only saves time: a missing, damaged or older cache file is taken as an empty one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = _load(path)
        self._used: dict[str, Any] = {}

    def get(self, pair: Pair, state: str) -> Measurement | None:
        """Return what was measured when the pair was in this state."""
        entry = self._entries.get(_key(pair))
        if entry is None or entry[0] != state:
            return None
        self._used[_key(pair)] = entry
        values: list[Any] = [tuple(v) if isinstance(v, list) else v for v in entry[1:]]
        return Measurement(*values)

    def put(self, pair: Pair, state: str, measurement: Measurement) -> None:
        """Remember what was measured in this state."""
        self._used[_key(pair)] = [state, *astuple(measurement)]

    def save(self, *, forget_others: bool) -> None:
        """Write the cache, if it changed, with or without the entries that nobody asked for."""
        entries = self._used if forget_others else {**self._entries, **self._used}
        if entries != self._entries:
            body = json.dumps({"format": _FORMAT, "entries": entries}).encode()
            write_bytes(self._path, sha256(body).hexdigest().encode() + b"\n" + body)


def _load(path: Path) -> dict[str, Any]:
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return {}
    if digest.decode("ascii", errors="replace") != sha256(body).hexdigest():
        return {}
    content = json.loads(body)
    entries: dict[str, Any] = content["entries"] if content["format"] == _FORMAT else {}
    return entries


def _key(pair: Pair) -> str:
    return f"{pair.image}|{pair.label}"


def _state(pair: Pair, table: str) -> str:
    """Return what changes when a file is replaced, edited or touched; its content is not read."""
    return f"{_stat(pair.image)} {_stat(pair.label)} {table}"


def _stat(path: Path | None) -> str:
    if path is None:
        return "-"
    try:
        stat = path.stat()
    except OSError:
        return "missing"  # never cached: measuring such a file fails
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
