"""Scenes that a teacher is pretrained on: crops of drawn streets, and which pixels are one object.

The teacher sees them as embedding shows it the tiles of a store: squares of working pixels that
begin on the token grid of a level, normalised, then scaled to its input. No class is known here.
"""

# N scenes, V views of each, H W pixels of a scene, S pixels of a crop's side

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from examples.drawn.world import draw_views
from stages.prepare.geometry import Size, crop_origin, flip
from stages.prepare.pixels import normalised_window

Progress = Callable[[int, int, str], None]


class Crop(NamedTuple):
    """What the teacher sees at once.

    Attributes:
        pixels: (3, S, S) float32, normalised.
        masks: (2, S, S) int32, the numbers of the objects, and of their parts.
    """

    pixels: NDArray[np.float32]
    masks: NDArray[np.int32]


@dataclass(frozen=True)
class Scenes:
    """Scenes in the wide style.

    Attributes:
        images: (N, V, H, W, 3) uint8 RGB.
        masks: (N, 2, H, W) int32, the numbers of the objects, and of their parts.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.int32]

    @classmethod
    def draw(
        cls, *, seed: int, scenes: int, views: int, size_px: Size, progress: Progress
    ) -> "Scenes":
        """Draw them all beforehand.

        Args:
            seed: Of the world.
            scenes: How many streets.
            views: How many looks of each.
            size_px: Height and width.
            progress: Called after each scene.
        """
        images = np.empty((scenes, views, *size_px, 3), np.uint8)
        masks = np.empty((scenes, 2, *size_px), np.int32)
        for index in range(scenes):
            images[index], masks[index, 0], masks[index, 1] = draw_views(
                seed=seed, index=index, style="wide", size_px=size_px, views=views
            )
            progress(index + 1, scenes, "drawing scenes")
        return cls(images, masks)

    def crop(self, rng: np.random.Generator, *, side_px: int, align_px: int) -> Crop:
        """Cut a square out of a random view of a random scene, mirrored half of the time.

        Args:
            rng: The only source of randomness.
            side_px: S.
            align_px: What the crop's origin is a multiple of.
        """
        scenes, views, height, width, _ = self.images.shape
        scene, view = int(rng.integers(scenes)), int(rng.integers(views))
        y, x = crop_origin(rng, (height, width), side_px, align_px)
        pixels = normalised_window(self.images[scene, view], y, x, side_px, side_px)
        masks = self.masks[scene, :, y : y + side_px, x : x + side_px]
        if rng.random() < 0.5:
            pixels, masks = flip(pixels), flip(masks)
        return Crop(pixels, masks)
