"""Size and fidelity of every codec on the features of a store.

    python -m benchmarks.codecs data/features/source/1a2b3c4d.zarr

Converts the float16 store into a temporary folder and compares each level, image by image.
"""

# C channels, h w tokens

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from store.convert import convert
from store.read import FeatureReader
from store.summary import inspect

CODECS = ("int8", "int8-zstd")


def main(path: Path) -> None:
    """Print one line per codec and level."""
    before = inspect(path)
    images = [slot.image.image_id for slot in FeatureReader(path).header.slots if slot.live]
    print("codec        level     bytes   cosine of tokens     relative  saturated  read, MB/s")
    print("                       of f16  mean      least      RMSE                of float16")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / before.domain / path.name
        source.parent.mkdir()
        source.symlink_to(path.resolve())
        for codec in CODECS:
            reader = FeatureReader(Path(folder) / convert(source, codec).path)
            after = inspect(Path(folder) / reader.header.spec.relative_path)
            for level in before.levels:
                ratio = after.levels[level].size_bytes / before.levels[level].size_bytes
                mean, least, error, speed = _compare(FeatureReader(path), reader, images, level)
                print(
                    f"{codec:<12} {level:<9} {ratio:6.1%}  {mean:.6f}  {least:.6f}  {error:9.2e}"
                    f"  {after.levels[level].saturated:9d}  {speed:6.0f}"
                )


def _compare(
    exact: FeatureReader, reader: FeatureReader, images: list[str], level: str
) -> tuple[float, float, float, float]:
    cosines, squares, error, size_bytes, seconds = [], 0.0, 0.0, 0, 0.0
    for image in images:
        h, w = exact.size_tok(image, level)
        wanted = exact.window(image, level, 0, 0, h, w).astype(np.float64)
        start = perf_counter()
        window = reader.window(image, level, 0, 0, h, w)
        seconds += perf_counter() - start
        size_bytes += 2 * window.size
        found = window.astype(np.float64)
        norms = np.sqrt((wanted**2).sum(0) * (found**2).sum(0))
        cosines.append(((wanted * found).sum(0) / norms).ravel())
        squares += float((wanted**2).sum())
        error += float(((wanted - found) ** 2).sum())
    every = np.concatenate(cosines)
    rmse = float(np.sqrt(error / squares))
    return float(every.mean()), float(every.min()), rmse, size_bytes / seconds / 1e6


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("store", type=Path, help="a complete store of float16")
    main(arguments.parse_args().store)
