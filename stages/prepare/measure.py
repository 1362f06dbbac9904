"""What the manifest says about the pixels of an image and its label, read once and remembered."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from stages.prepare.geometry import Size
from stages.prepare.labels import LabelTable, class_pixels
from stages.prepare.pixels import decode_image, decode_label, read_bytes
from stages.prepare.sources.listing import Progress
from store.atomic import write_bytes
from store.errors import DataError

# Raise when a measurement of unchanged files may come out differently.
_FORMAT: Final = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """An image file and, where it counts, its label file."""

    image: Path
    label: Path | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """Facts of one pair; those of the label are None without one, its pixels at raw resolution."""

    raw_size_px: Size
    sha256: str
    class_pixels: tuple[int, ...] | None
    label_sha256: str | None


def measure(pair: Pair, *, labels: LabelTable, classes: int) -> Measurement:
    """Read a pair completely.

    Raises:
        DataError: A file is missing, damaged or no image; sizes differ; label values are unknown.
    """
    data = read_bytes(pair.image)
    image = decode_image(data, pair.image)
    height, width, _ = image.rgb.shape
    counts = label_sha256 = None
    if pair.label is not None:
        if not pair.label.is_file():
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
            counts = class_pixels(labels.to_train_ids(label), classes)
        except DataError as error:
            raise DataError(
                f"{pair.label}: {error}: correct the label or the table (kind `folder`: "
                "classes, ignore_ids, ignore_colors)"
            ) from error
    return Measurement((height, width), sha256(data).hexdigest(), counts, label_sha256)


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
        _, height, width, digest, counts, label_digest = entry
        pixels = None if counts is None else tuple(counts)
        return Measurement((height, width), digest, pixels, label_digest)

    def put(self, pair: Pair, state: str, measurement: Measurement) -> None:
        """Remember what was measured in this state."""
        counts = measurement.class_pixels
        self._used[_key(pair)] = [
            state,
            *measurement.raw_size_px,
            measurement.sha256,
            None if counts is None else list(counts),
            measurement.label_sha256,
        ]

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
