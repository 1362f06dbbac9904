"""MB/s of float16 that the writer of a store puts on the disk, against zarr-python's encoder.

    python -m benchmarks.writer --folder /dev/shm

One shard of four images of 256 x 128 x 256 numbers, float16 as those of a GPU, each way in turn,
medians; with crc32c, statistics, SHA-256 and the flushed file.
"""

import argparse
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from store.atomic import write_bytes
from store.codec import CODECS, Codec, estimate_scale
from store.fingerprint import sha256
from store.layout import array_settings, encode_images
from store.spec import ImageEntry, LevelGrid

CHANNELS, SIZE_TOK, IMAGES = 256, (128, 256), 4


def main(folder: Path, repeats: int) -> None:
    """Print one line per codec."""
    shape = (CHANNELS, *SIZE_TOK)
    draw = np.random.default_rng(0)
    images = [ImageEntry(f"{n}", "", (1024, 2048)) for n in range(IMAGES)]
    features = {i.image_id: draw.normal(3, 2, shape).astype(np.float16) for i in images}
    size_mb = 2 * IMAGES * np.prod(shape) / 1e6
    print("codec      MB/s: zarr-python   1 thread  2 threads   2 shards, a thread each")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "shard"
        for codec in CODECS:
            grid = LevelGrid(8, CHANNELS, IMAGES, SIZE_TOK, 16, Codec(codec))
            scale = estimate_scale(codec, features.values()) if grid.codec.scaled else None
            ours = [partial(_ours, grid, scale, images, features, threads) for threads in (1, 2)]
            ways = [partial(_by_zarr, grid, scale, features), *ours]
            seconds = [
                [*(_clocked(way, path) for way in ways), _clocked_twice(ours[0], path)]
                for _ in range(repeats)
            ]
            speeds = [size_mb / median(column) for column in zip(*seconds, strict=True)]
            print(f"{codec:<16}" + "".join(f"{speed:11.0f}" for speed in speeds))


def _clocked(way: Callable[[], bytes | memoryview], path: Path) -> float:
    start = perf_counter()
    data = way()
    sha256(data)
    write_bytes(path, data)
    return perf_counter() - start


def _clocked_twice(way: Callable[[], bytes | memoryview], path: Path) -> float:
    """Write two shards at once, as `ssr embed` does; return the time of one."""
    start = perf_counter()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(partial(_clocked, way), (path, path.with_suffix(".2"))))
    return (perf_counter() - start) / 2


def _ours(
    grid: LevelGrid,
    scale: NDArray[np.float32] | None,
    images: list[ImageEntry],
    features: dict[str, NDArray[np.float16]],
    threads: int,
) -> memoryview:
    return encode_images(grid, scale, images, features, threads)[0]


def _by_zarr(
    grid: LevelGrid, scale: NDArray[np.float32] | None, features: dict[str, NDArray[np.float16]]
) -> memoryview:
    block = np.full(grid.shard_shape, grid.codec.fill, grid.codec.dtype)
    for row, values in enumerate(features.values()):
        block[row], _ = grid.codec.encode(values, scale)
        tokens = grid.codec.decode(block[row], scale).reshape(CHANNELS, -1).astype(np.float64)
        for count in (tokens.sum, np.square(tokens).sum, tokens.min, tokens.max):
            count(axis=1)
    memory: dict[str, Any] = {}
    array = zarr.create_array(MemoryStore(memory), **array_settings(grid, grid.shard_shape))
    array[...] = block
    return memoryview(memory["c.0.0.0.0"].as_numpy_array())


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    arguments.add_argument("--repeats", type=int, default=5)
    chosen = arguments.parse_args()
    main(chosen.folder, chosen.repeats)
