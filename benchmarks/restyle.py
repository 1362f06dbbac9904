"""Mixers on photographs: how near images by day come to dusk, and what stays of their edges.

    python -m benchmarks.restyle CAMVID --images 62 --styles dusk --png sheet.png

Each image by day gets the style of one at dusk, or of another by day; distances are between the two
of a pair.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.runs import positive
from stages.prepare.datasets.dataset import files_under
from stages.prepare.pixels import read_image
from stages.restyle.mixers.color import Color
from stages.restyle.mixers.fourier import Fourier
from stages.restyle.mixers.jitter import Jitter
from stages.restyle.mixers.mixer import Mixer
from stages.restyle.mixers.statistics import Statistics, pyramid, transport

OCTAVES: Final = 5
MIXERS: Final[dict[str, Mixer]] = {
    "statistics": Statistics(kind="statistics", strength=1, octaves=OCTAVES, max_gain=2),
    "statistics, colour alone": Statistics(kind="statistics", strength=1, octaves=0, max_gain=1),
    "fourier 0.01": Fourier(kind="fourier", strength=1, band=0.01),
    "fourier 0.05": Fourier(kind="fourier", strength=1, band=0.05),
    "color": Color(kind="color", strength=1),
    **{f"jitter {s}": Jitter(kind="jitter", strength=s) for s in (0.5, 0.75, 1)},
}


def measure(pairs: Sequence[tuple[Any, Any]], mixer: Mixer) -> tuple[list[Any], list[float]]:
    """Mix pairs of content and style.

    Returns:
        The images; and means over them: colour before and after, texture before and after,
        correlation of edges with the content, change of a pixel in grey levels, CPU ms an image.
    """
    mixed, rows = [], []
    for content, style in pairs:
        started = process_time()
        image = mixer.mix(content, style)
        took = 1000 * (process_time() - started)
        distances = [of(one, style) for of in (colour, texture) for one in (content, image)]
        edges = np.corrcoef(*(_edges(each).ravel() for each in (content, image)))[0, 1]
        moved = np.abs(image.astype(np.int16) - content).mean()
        rows.append([*distances, edges, moved, took])
        mixed.append(image)
    return mixed, np.mean(rows, axis=0).tolist()


def colour(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Wasserstein distance (2) between Gaussians of the images' RGB, in 8 bits."""
    a, b = (image.reshape(-1, 3).astype(np.float64) for image in (one, other))
    of_a, of_b = (np.cov(pixels, rowvar=False) + 1e-6 * np.eye(3) for pixels in (a, b))
    spread = np.trace(of_a + of_b - 2 * of_a @ transport(of_a, of_b))
    return float(np.sqrt(np.square(a.mean(0) - b.mean(0)).sum() + max(spread, 0)))


def texture(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Mean distance of the logarithms of contrast, octave by octave, of log brightness."""
    contrasts = []
    for image in (one, other):
        log = np.log(_grey(image) + 4)[..., None].repeat(3, axis=2)
        contrasts.append([band.std() for band in pyramid(log, OCTAVES)[:OCTAVES]])
    return float(np.abs(np.diff(np.log(contrasts), axis=0)).mean())


def _grey(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)  # type: ignore[no-any-return]


def _edges(image: NDArray[np.uint8]) -> Any:  # noqa: ANN401 - an array
    return np.hypot(*(cv2.Sobel(_grey(image), cv2.CV_32F, *way) for way in ((1, 0), (0, 1))))


def main() -> None:
    """Print a table; draw contents, styles and a column for each mixer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("camvid", type=Path)
    parser.add_argument("--images", type=positive, default=20)
    parser.add_argument("--styles", choices=["dusk", "day"], default="dusk")
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    columns = []
    for split in ("day_train", f"{options.styles}_train"):
        files, _ = files_under(options.camvid, f"{split}/images")
        places = np.linspace(0, len(files) - 1, options.images).round().astype(int)
        columns.append([read_image(options.camvid / files[place]) for place in places])
    contents, styles = columns
    if options.styles == "day":  # the same images: each gets the style of one half of them away
        half = len(styles) // 2
        columns[1] = styles = styles[half:] + styles[:half]
    pairs = [*zip(contents, styles, strict=True)]
    print("| mixer | colour | texture | edges | moved | ms |\n|---|---|---|---|---|---|")
    for name, mixer in MIXERS.items():
        mixed, (c0, c1, t0, t1, edges, moved, ms) = measure(pairs, mixer)
        columns.append(mixed)
        closed = [f"{a:.3g} to {b:.3g} ({1 - b / a:.0%})" for a, b in ((c0, c1), (t0, t1))]
        print(
            f"| {name} | {' | '.join(closed)} | {edges:.3f} | {moved:.1f} | {ms:.0f} |", flush=True
        )
    if options.png is not None:
        rows = [np.hstack(row) for row in zip(*columns, strict=True)]
        Image.fromarray(np.vstack(rows[:: -(-len(rows) // 5)])).save(options.png)


if __name__ == "__main__":
    main()
