"""Time to read a training window, by reader and side of the inner chunk.

    python -m benchmarks.window_reads [--folder FOLDER] [--rounds 40] [--readers ours ...]

The same random windows through np.memmap, our reader, zarr-python, and zarrs and tensorstore where
they can be imported. All readers take turns in every round, so that whatever else the machine does
hits them alike; the ratio is that of the medians. Cold: the file's pages are dropped before each
read (`posix_fadvise`), which leaves the disk's own cache. `64/4`: windows of 64 x 64 tokens, at
origins that are multiples of 4.
"""

# C channels, h w tokens

import argparse
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import MADV_DONTNEED, mmap
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from store import spec as grids
from store.read import FeatureReader
from store.spec import ImageEntry, Level, LevelGrid, StoreSpec
from store.write import StoreWriter

LEVEL, CHANNELS = "stride8", 256
SPEC = StoreSpec(  # 88 x 160 tokens
    "source", {LEVEL: Level(8, CHANNELS)}, (704, 1280), 4, "float16", {}
)
IMAGES = [ImageEntry(f"image {n}", "", (704, 1280)) for n in range(8)]
SIDES_TOK, WINDOWS_TOK = (8, 16, 32), (64, 32, 16)

Read = Callable[[int, int, int, int], NDArray[np.float16]]
"""(image, y, x, side) -> (C, side, side)"""


def main() -> None:
    """Print one line per chunk side, window, temperature and reader."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--folder", type=Path, help="where to write 360 MB; default: temporary")
    arguments.add_argument("--rounds", type=int, default=40)
    arguments.add_argument(
        "--readers", nargs="*", default=[], help="beside np.memmap; default: all"
    )
    given = arguments.parse_args()
    print("chunk  window       reader         MB/s     p50 ms   p99 ms  of memmap")
    for chunk in SIDES_TOK:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder, chunks_of(chunk):
            readers, files, mapped = prepare(Path(folder))
            wanted = {"np.memmap", *(given.readers or readers)}
            readers = {name: read for name, read in readers.items() if name in wanted}
            for window in WINDOWS_TOK:
                for align in (1, 4):
                    for cold in (False, True):
                        times = measure(readers, files, mapped, window, align, cold, given.rounds)
                        report(chunk, window, align, cold, times)


@contextmanager
def chunks_of(side_tok: int) -> Iterator[None]:
    """Write and read stores with another side of the inner chunk."""
    before = grids.CHUNK_SIDE_TOK
    grids.CHUNK_SIDE_TOK = side_tok
    try:
        yield
    finally:
        grids.CHUNK_SIDE_TOK = before


def prepare(folder: Path) -> tuple[dict[str, Read], list[Path], mmap]:
    """Write the same features as a store and as a plain array; return readers, files, mapping."""
    rng = np.random.default_rng(0)
    h, w = LevelGrid.of(SPEC, LEVEL).size_tok
    plain = np.lib.format.open_memmap(
        folder / "plain.npy", "w+", np.float16, (len(IMAGES), CHANNELS, h, w)
    )
    with StoreWriter(folder, SPEC, IMAGES, (LEVEL,)) as writer:
        for task in writer.pending():
            features = {}
            for image in filter(None, task.images):
                features[image.image_id] = rng.normal(size=(256, h, w)).astype(np.float16)
                plain[IMAGES.index(image)] = features[image.image_id]
            writer.write_shard(task, {LEVEL: features})
    plain.flush()
    store = Path(writer.path)
    mapped = np.load(folder / "plain.npy", mmap_mode="r")
    reader = FeatureReader(store)

    def ours(n: int, y: int, x: int, side: int) -> NDArray[np.float16]:
        return reader.window(IMAGES[n].image_id, LEVEL, y, x, side, side)

    readers: dict[str, Read] = {
        "np.memmap": lambda n, y, x, s: np.array(mapped[n, :, y : y + s, x : x + s]),
        "ours": ours,
        "zarr-python": slicing(zarr.open_array(store / LEVEL, mode="r")),
    }
    if (tensorstore := optional("tensorstore")) is not None:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store / LEVEL)}}
        opened = tensorstore.open(spec, open=True, read=True).result()
        readers["tensorstore"] = lambda n, y, x, s: np.asarray(
            opened[n, :, y : y + s, x : x + s].read().result()
        )
    if optional("zarrs") is not None:
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            readers["zarrs"] = slicing(zarr.open_array(store / LEVEL, mode="r"))
    mapping: Any = mapped
    return readers, [folder / "plain.npy", *(store / LEVEL).glob("c.*")], mapping._mmap


def slicing(array: zarr.Array) -> Read:
    """Read by slicing a Zarr array."""
    return lambda n, y, x, s: array[n, :, y : y + s, x : x + s]


def optional(name: str) -> ModuleType | None:
    """Import a package if it is there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def measure(
    readers: dict[str, Read],
    files: list[Path],
    mapped: mmap,
    window: int,
    align: int,
    cold: bool,
    rounds: int,
) -> dict[str, NDArray[np.float64]]:
    """Return the seconds of every read of the same windows, by reader."""
    rng = np.random.default_rng(window)
    h, w = LevelGrid.of(SPEC, LEVEL).size_tok
    times: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(rounds + 3):
        n = int(rng.integers(len(IMAGES)))
        y, x = (int(rng.integers((side - window) // align + 1)) * align for side in (h, w))
        results = []
        for name in rng.permutation(sorted(readers)).tolist():
            if cold:
                drop(files, mapped)
            start = perf_counter()
            results.append(readers[name](n, y, x, window))
            if turn >= 3:
                times[name].append(perf_counter() - start)
        assert all(np.array_equal(results[0], other) for other in results)
    return {name: np.array(held) for name, held in times.items()}


def drop(files: list[Path], mapped: mmap) -> None:
    """Forget the pages of files that the kernel holds; it keeps those that are mapped."""
    mapped.madvise(MADV_DONTNEED)
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def report(
    chunk: int, window: int, align: int, cold: bool, times: dict[str, NDArray[np.float64]]
) -> None:
    """Print the lines of one setting."""
    size_bytes = CHANNELS * window**2 * 2
    baseline = np.median(times["np.memmap"])
    setting = f"{chunk:>5}  {window}/{align} {'cold' if cold else 'warm'}"
    for name, held in times.items():
        p50, p99 = np.percentile(held, (50, 99))
        print(
            f"{setting:<18} {name:<12} {size_bytes / p50 / 1e6:7.0f}  {p50 * 1e3:8.2f} "
            f"{p99 * 1e3:8.2f}  {p50 / baseline:8.2f}"
        )


if __name__ == "__main__":
    main()
