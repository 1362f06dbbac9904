"""Which sample is next for a process, its source image, and which part of it.

Spec sections 1.1 and 1.4.

N images, K classes, H W pixels. All randomness comes from the caller's generator.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from stages.prepare.geometry import Box, Size, crop_origin
from stages.prepare.labels import IGNORE
from stages.train.config import RareClassConfig
from store.errors import ConfigError, DataError

REDRAWS = 10
"""Attempts after the first; official SSR hard-codes it for both rejections below."""

Rng = np.random.Generator | np.random.RandomState
"""NumPy's generator, or its legacy one, with which the official draws can be repeated."""

T = TypeVar("T")


def sample_indices(*, batch_size: int, rows: slice, start: int, iterations: int) -> list[list[int]]:
    """List the samples of each iteration from `start` on: this rank's rows of the global batch.

    Samples are numbered through the run, whatever the number of ranks; what a sample shows, rare
    classes included, follows from its number and the seed.
    """
    return [
        list(range(first + rows.start, first + rows.stop))
        for first in range(start * batch_size, iterations * batch_size, batch_size)
    ]


def redraw_until_enough(draw: Callable[[], T], enough: Callable[[T], bool]) -> T:
    """Draw until the result is good enough, 11 times at most; the last one is kept unchecked."""
    result = draw()
    for _ in range(REDRAWS):
        if enough(result):
            break
        result = draw()
    return result


def class_probabilities(
    pixel_counts: NDArray[np.int64], temperature: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Turn class frequencies into the probability of asking for each class.

    softmax((1 - share of all labelled pixels) / temperature), in float32 as the official code.

    Args:
        pixel_counts: Labelled pixels (N, K) of each class in each image.
        temperature: Small values favour rare classes.

    Returns:
        The classes that occur, rarest first, and the probability of each.
    """
    totals = pixel_counts.sum(axis=0)
    order = np.argsort(totals, kind="stable")
    classes = order[totals[order] > 0].astype(np.int64)
    present = torch.from_numpy(totals[classes])
    share = present / present.sum()
    return classes, torch.softmax((1 - share) / temperature, dim=0).numpy()


def eligible(pixel_counts: NDArray[np.int64], min_pixels: int) -> NDArray[np.bool_]:
    """Say (N, K) which image may be drawn for which class: more than `min_pixels` of it."""
    return pixel_counts > min_pixels


class RareClassSampler:
    """Draws a class, rare ones more often, then one of the images that show enough of it.

    Args:
        pixel_counts: Labelled pixels (N, K) of each class, at raw label resolution.
        class_names: The K names, for messages.
        config: Temperature and thresholds.

    Raises:
        DataError: No image has a labelled pixel.
        ConfigError: A class occurs, but no image shows enough of it.
    """

    def __init__(
        self, pixel_counts: NDArray[np.int64], class_names: Sequence[str], config: RareClassConfig
    ) -> None:
        self.min_crop_pixels = config.min_pixels * config.min_crop_ratio
        self.classes, self.probabilities = class_probabilities(pixel_counts, config.temperature)
        if len(self.classes) == 0:
            raise DataError(
                "rare class sampling: the source's training labels have no labelled pixel; "
                "check prepare.source and its label table"
            )
        suits = eligible(pixel_counts, config.min_pixels)
        self._images = {int(c): np.flatnonzero(suits[:, c]) for c in self.classes}
        missing = [c for c, images in self._images.items() if len(images) == 0]
        if missing:
            most = pixel_counts.max(axis=0)
            found = ", ".join(f"{class_names[c]} (at most {most[c]})" for c in missing[:3])
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ConfigError(
                f"rare class sampling: no image has more than {config.min_pixels} pixels of "
                f"{found}{more}; set train.rare_class_sampling.min_pixels to "
                f"{min(int(most[c]) for c in missing) - 1} or less"
            )

    def draw(self, rng: Rng) -> tuple[int, int]:
        """Draw a class id and the row of an image for it, in the official order."""
        class_id = int(rng.choice(self.classes, p=self.probabilities))
        return class_id, int(rng.choice(self._images[class_id]))

    def enough(self, label: NDArray[np.uint8], class_id: int) -> bool:
        """Say whether a crop's label (H, W) shows enough of the class that was asked for."""
        return int(np.count_nonzero(label == class_id)) > self.min_crop_pixels


def varied(label: NDArray[np.uint8], max_share: float) -> bool:
    """Say whether a label (H, W) has several classes and none fills `max_share` of the labelled."""
    counts = np.delete(np.bincount(label.ravel(), minlength=256), IGNORE)
    return int(np.count_nonzero(counts)) > 1 and bool(counts.max() / counts.sum() < max_share)


def draw_crop(
    rng: np.random.Generator,
    *,
    working_px: Size,
    crop_px: int,
    align_px: int,
    max_class_share: float,
    label_in: Callable[[Box], NDArray[np.uint8]] | None,
) -> Box:
    """Draw a crop in which no class prevails, if one turns up soon.

    Args:
        rng: Source of randomness.
        working_px: Size of the working image.
        crop_px: Side of the crop.
        align_px: Origins are multiples of this.
        max_class_share: `cat_max_ratio` of the official code; 1 takes the first crop.
        label_in: Gives the label (H, W) in a box of working pixels; None takes the first crop, as
            for target images, which have no label.
    """

    def draw() -> Box:
        y, x = crop_origin(rng, working_px, crop_px, align_px)
        return Box(y, x, crop_px, crop_px)

    if label_in is None or max_class_share >= 1:
        return draw()
    return redraw_until_enough(draw, lambda box: varied(label_in(box), max_class_share))
