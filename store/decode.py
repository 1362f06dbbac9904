"""Read a window of tokens out of one shard file.

A shard is what Zarr v3 calls `sharding_indexed`: inner chunks, each followed by its crc32c, and at
the end of the file the index of their offsets and lengths with a crc32c of its own. zarr-python
reads the same bytes 4 to 8 times slower (*measured* 3.5 to 7 ms against 0.9 ms for 64x64 tokens of
256 channels) and starts a thread with an event loop in every DataLoader worker; for the one read
in the inner loop of training these lines are worth it. Writing is zarr-python's alone.
"""

# C channels, h w tokens

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.checksum import CRC_BYTES, crc32c_is_sound
from store.errors import StoreIncompleteError
from store.grid import LevelGrid

_ABSENT = np.iinfo(np.uint64).max


class DamageError(Exception):
    """The bytes of a shard are not the ones that were written."""


def read_window(
    file: Path, grid: LevelGrid, row: int, *, y: int, x: int, h: int, w: int
) -> NDArray[Any]:
    """Read stored tokens (C, h, w) of the image in one row of a shard, verifying every checksum.

    The window must lie within the shard.

    Raises:
        DamageError: A checksum, a size or the index is wrong.
        StoreIncompleteError: The shard has no features for a part of the window.
        OSError: The file cannot be read.
    """
    window = np.empty((grid.channels, h, w), grid.codec.dtype)
    side = grid.chunk_side_tok
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        index = _read_index(descriptor, grid)[row]  # (rows, columns, 2)
        for chunk_row, chunk_column in grid.chunks_under(y, x, h, w):
            offset, length = map(int, index[chunk_row, chunk_column])
            if offset == _ABSENT:
                raise StoreIncompleteError(
                    f"{file} has no features at tokens y={y}, x={x}: delete it and run `ssr embed`"
                )
            chunk = _decode_chunk(_read_checked(descriptor, offset, length), grid)
            top, left = chunk_row * side, chunk_column * side
            y0, y1 = max(y, top), min(y + h, top + side)
            x0, x1 = max(x, left), min(x + w, left + side)
            window[:, y0 - y : y1 - y, x0 - x : x1 - x] = chunk[
                :, y0 - top : y1 - top, x0 - left : x1 - left
            ]
    finally:
        os.close(descriptor)
    return window


def _read_index(descriptor: int, grid: LevelGrid) -> NDArray[np.uint64]:
    """Read the index (images, rows, columns, 2) of offsets and lengths."""
    size_bytes = os.fstat(descriptor).st_size
    if size_bytes < grid.index_bytes:
        raise DamageError(f"the file has only {size_bytes} bytes")
    data = _read_checked(descriptor, size_bytes - grid.index_bytes, grid.index_bytes)
    return data.view("<u8").reshape(grid.shard_images, *grid.chunks_per_image, 2)


def _read_checked(descriptor: int, offset: int, length: int) -> NDArray[np.uint8]:
    buffer = np.empty(length, np.uint8)
    if os.preadv(descriptor, [buffer.data], offset) != length:
        raise DamageError("the file ends too early")
    if not crc32c_is_sound(buffer):
        raise DamageError("a checksum does not match")
    return buffer[:-CRC_BYTES]


def _decode_chunk(data: NDArray[np.uint8], grid: LevelGrid) -> NDArray[Any]:
    if grid.codec.compressed:
        from numcodecs.zstd import decompress  # 0.2 s

        data = np.frombuffer(decompress(data), np.uint8)
    if len(data) != grid.chunk_bytes:
        raise DamageError(f"a chunk has {len(data)} bytes instead of {grid.chunk_bytes}")
    return data.view(grid.codec.dtype).reshape(grid.chunk_shape[1:])
