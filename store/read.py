"""Reader of features for training: a window is a pure slice, or one line says why not.

zarr-python reads the same bytes 4 to 8 times slower (*measured* 3.5 to 7 ms against 0.9 ms for
64x64 tokens of 256 channels) and starts a thread with an event loop in every DataLoader worker.
"""

# C channels, h w tokens

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache, cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from store.errors import (
    StoreError,
    StoreIncompleteError,
    StoreMismatchError,
    StoreMissingError,
)
from store.files import OpenFile, Url, files_at, join, unreadable
from store.fingerprint import CRC_BYTES, crc32c_is_sound
from store.header import Header, read_header
from store.index import Index
from store.ledger import ChannelStatistics, ShardEntry
from store.spec import FLIPPED, ImageEntry, LevelGrid, Size, shard_file, upright

_ABSENT: Final = np.iinfo(np.uint64).max
"""Offset of a chunk that holds no feature and is not stored."""


class FeatureReader:
    """Read windows of one store.

    Opens on first use and keeps no file open, so that it pickles as a path and works in
    DataLoader workers, forked or spawned. It shows the store as it was when first used.

    Args:
        path: The store.
        flips: Names of its levels of mirrored images that windows of mirrored crops are read from.
    """

    def __init__(self, path: Url, flips: tuple[str, ...] = ()) -> None:
        self._path, self._flips = path, flips

    def __reduce__(self) -> tuple[type["FeatureReader"], tuple[Any, ...]]:
        return FeatureReader, (self._path, self._flips)

    def mirrored(self, level: str) -> str:
        """Return the level to read and mirror for mirrored crops: of mirrored images if it can."""
        return level + FLIPPED if level + FLIPPED in self._flips else level

    @cached_property
    def header(self) -> Header:
        """Specification, levels and slots of the store; errors as of `read_header`."""
        return read_header(files_at(self._path))

    def size_tok(self, image_id: str, level: str) -> Size:
        """Return the valid (height, width) of an image in tokens of a level."""
        return self._grid(level).image_size_tok(self._slot(image_id)[1].working_size_px)

    def window(self, image_id: str, level: str, y: int, x: int, h: int, w: int) -> NDArray[Any]:
        """Read the tokens (C, h, w) from (y, x) on, in tokens of the level.

        float16 where that is the codec, otherwise float32.

        Raises:
            StoreIncompleteError: The store has no such image, level or (yet) shard.
            StoreUnreadableError: The shard cannot be looked at.
            StoreError: The window leaves the valid region, or the shard is damaged.
        """
        height, width = self.size_tok(image_id, level)
        if not (0 <= y < y + h <= height and 0 <= x < x + w <= width):
            raise StoreError(
                f"window y={y}:{y + h}, x={x}:{x + w} leaves the {height}x{width} {level} tokens "
                f"of {image_id}: crops must lie in the working image"
            )
        grid, (shard, row) = self._grid(level), self.place(image_id, level)
        name, files = shard_file(level, shard), self.header.files
        try:
            with files.open(name) as file:
                stored = read_window(file, grid, row, y=y, x=x, h=h, w=w)
        except DamageError as error:
            raise StoreError(
                f"{image_id} lies in a damaged shard, {files.url}/{name} ({error}): "
                f"`ssr verify {files.url} --repair` embeds it again"
            ) from error
        except (OSError, MemoryError) as error:
            raise unreadable(f"{files.url}/{name}", error) from error
        return grid.codec.decode(stored, self.header.scales.get(level))

    def statistics(self, level: str) -> ChannelStatistics | None:
        """Read those of all tokens of a level from the ledger; None where it has none."""
        self._grid(level)
        done = [shard for shard in self.header.shards if self.entry(level, shard) is not None]
        return self.header.statistics(level, done)

    def check(self, *, levels: Iterable[str], images: Mapping[str, str], fingerprint: str) -> None:
        """Refuse the store unless it holds these images at these levels, all of them done.

        Looks at the ledger, existence and sizes; contents are verified as they are read. `images`
        are image id -> content, as in the manifest.

        Raises:
            StoreMismatchError: Features of another teacher, or of other versions of images.
            StoreIncompleteError: Levels, images or shards are missing.
        """
        found = self.header.spec.fingerprint
        if found != fingerprint:
            raise StoreMismatchError(
                f"the store {self._path} has fingerprint {found[:8]}, expected {fingerprint[:8]}: "
                "run `ssr embed`"
            )
        other = [i for i, content in images.items() if self._slot(i)[1].content != content]
        if other:
            raise StoreMismatchError(
                f"{len(other)} images changed since they were embedded in {self._path}, "
                f"first {other[0]}: run `ssr embed`"
            )
        for level in levels:
            self._grid(level)
            for image_id in images:
                self.place(image_id, level)

    def place(self, image_id: str, level: str) -> tuple[int, int]:
        """Return shard and row of an image, after a look at what the ledger records of it.

        StoreIncompleteError where it does not record the image with its present content.
        """
        slot, image = self._slot(image_id)
        shard, row = divmod(slot, self.header.spec.shard_images)
        entry = self.entry(level, shard)
        if entry is None or entry.images[row : row + 1] != (image,):
            raise StoreIncompleteError(
                f"shard {shard} of {level} with {image_id} is missing or out of date in "
                f"{self.header.files.url}: run `ssr embed`"
            )
        return shard, row

    @cached_property
    def entry(self) -> Callable[[str, int], ShardEntry | None]:
        """What the ledger records of a shard of a level that is there, read once."""
        return cache(self.header.done)

    def _grid(self, level: str) -> LevelGrid:
        if level not in self.header.levels:
            raise StoreIncompleteError(
                f"the store {self.header.files.url} has no {level}, only "
                f"{', '.join(self.header.levels)}: add it to embed.levels and run `ssr embed`"
            )
        return self.header.grids[level]

    @cached_property
    def _slots(self) -> dict[str, tuple[int, ImageEntry]]:
        return {s.image.image_id: (n, s.image) for n, s in enumerate(self.header.slots) if s.live}

    def _slot(self, image_id: str) -> tuple[int, ImageEntry]:
        if image_id not in self._slots:
            raise StoreIncompleteError(
                f"the store {self.header.files.url} has no image {image_id!r}: run `ssr embed`"
            )
        return self._slots[image_id]


def open_features(
    url: Url, index: Index, domain: str, *, levels: Iterable[str], images: Mapping[str, str]
) -> FeatureReader:
    """Open the store below a url that the index names for a domain, and `check` it.

    It reads mirrored crops from levels of mirrored images where the index names those too.

    Raises:
        StoreMissingError: The index has no such domain, or the store is not there.
        StoreMismatchError: Features of another teacher, or of other versions of images.
        StoreIncompleteError: Levels, images or shards are missing.
    """
    entry = index.stores.get(domain)
    if entry is None:
        raise StoreMissingError(
            f"the index has no features of {domain}, only of {sorted(index.stores)}: add it to "
            "embed.domains and run `ssr embed`"
        )
    levels = entry.with_flips(levels)
    flips = tuple(level for level in levels if level != upright(level))
    reader = FeatureReader(join(url, entry.path), flips)
    reader.check(levels=levels, images=images, fingerprint=entry.fingerprint)
    # The store may have kept a level that was embedded before; the index does not list it.
    absent = [level for level in levels if level not in entry.levels]
    if absent:
        raise StoreIncompleteError(
            f"the index has no {absent[0]} of {domain}, only {', '.join(entry.levels)}: add it to "
            "embed.levels and run `ssr embed`"
        )
    return reader


def require_same_bases(readers: Collection[FeatureReader], levels: Iterable[str]) -> None:
    """Raise StoreMismatchError where principal components of a level differ between stores."""
    headers = [reader.header for reader in readers]
    for level in map(upright, levels):
        urls = {h.bases[level].digest: h.files.url for h in headers if level in h.bases}
        if len(urls) > 1:
            raise StoreMismatchError(
                f"{level} of {' and of '.join(urls.values())} holds other principal components: "
                "move one of the stores away and run `ssr embed`, which makes it like the other"
            )


class DamageError(Exception):
    """The bytes of a shard are not the ones that were written."""


def read_window(
    shard: OpenFile, grid: LevelGrid, row: int, *, y: int, x: int, h: int, w: int
) -> NDArray[Any]:
    """Read stored tokens (C, h, w) of the image in one row of a shard, verifying every checksum.

    Raises:
        DamageError: A checksum, a size or the index is wrong.
        StoreIncompleteError: The shard has no features for a part of the window.
    """
    side = grid.chunk_side_tok
    data = shard.tail(grid.index_bytes)
    if len(data) != grid.index_bytes or not crc32c_is_sound(data):
        raise DamageError("the file is cut, or the checksum of its index does not match")
    table = data[:-CRC_BYTES].view("<u8").reshape(grid.shard_images, *grid.chunks_per_image, 2)
    index = table[row]  # (rows, columns, 2): offset and length of each chunk
    places = list(grid.chunks_under(y, x, h, w))
    ranges = [(int(index[place][0]), int(index[place][1])) for place in places]
    if any(offset == _ABSENT for offset, _ in ranges):
        raise StoreIncompleteError(
            f"{shard.url} has no features at tokens y={y}, x={x}: `ssr verify STORE --repair`"
        )
    if any(length > 2 * grid.chunk_bytes for _, length in ranges):
        raise DamageError("a chunk is longer than any chunk can be")
    window = np.empty((grid.channels, h, w), grid.codec.dtype)
    for (chunk_row, chunk_column), data in zip(places, shard.ranges(ranges), strict=True):
        chunk = decode_chunk(data, grid)
        top, left = chunk_row * side, chunk_column * side
        y0, y1 = max(y, top), min(y + h, top + side)
        x0, x1 = max(x, left), min(x + w, left + side)
        # Runs of tokens are copied as one item each: *measured* 0.33 against 0.46 ms per window.
        run = np.dtype((np.void, (x1 - x0) * window.itemsize))
        part = window[:, y0 - y : y1 - y, x0 - x : x1 - x]
        part.view(run)[...] = chunk[:, y0 - top : y1 - top, x0 - left : x1 - left].view(run)
    return window


def decode_chunk(data: NDArray[np.uint8], grid: LevelGrid) -> NDArray[Any]:
    """Decode an inner chunk (C, side, side) of stored numbers; DamageError if it is not sound."""
    if not crc32c_is_sound(data):
        raise DamageError("a checksum does not match")
    data = data[:-CRC_BYTES]
    if grid.codec.compressed:
        from numcodecs.zstd import decompress  # 0.2 s

        if (claimed := _content_bytes(data)) != grid.chunk_bytes:  # before there is memory for it
            raise DamageError(f"a chunk claims {claimed} bytes instead of {grid.chunk_bytes}")
        try:
            data = np.frombuffer(decompress(data), np.uint8)
        except RuntimeError as error:
            raise DamageError(str(error)) from error
    if len(data) != grid.chunk_bytes:
        raise DamageError(f"a chunk has {len(data)} bytes instead of {grid.chunk_bytes}")
    return data.view(grid.codec.dtype).reshape(grid.chunk_shape[1:])


def _content_bytes(frame: NDArray[np.uint8]) -> int:
    """Return how many bytes a zstd frame says that it holds (RFC 8878, section 3.1.1.1)."""
    head = frame[:18].tobytes().ljust(18, b"\0")
    single_segment = head[4] >> 5 & 1
    width = (single_segment, 2, 4, 8)[head[4] >> 6]
    start = 5 + (not single_segment) + (0, 1, 2, 4)[head[4] & 3]
    return int.from_bytes(head[start : start + width], "little") + 256 * (width == 2)
