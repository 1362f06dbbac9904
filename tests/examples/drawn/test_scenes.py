"""Crops of drawn scenes are tiles of a store, and their objects lie where the pixels do."""

import numpy as np
import pytest

from examples.drawn.scenes import Scenes
from stages.prepare.pixels import normalised_window


def silent(done: int, total: int, what: str) -> None:
    """Report to nobody."""


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes.draw(seed=4, scenes=2, views=2, size_px=(64, 128), progress=silent)


def test_a_crop_is_a_window_of_one_view_that_begins_on_the_grid(scenes: Scenes) -> None:
    met = set()
    for seed in range(60):
        crop = scenes.crop(np.random.default_rng(seed), side_px=64, align_px=32)
        for scene in range(2):
            for view in range(2):
                for x in (0, 32, 64):
                    for step in (1, -1):
                        pixels = normalised_window(scenes.images[scene, view], 0, x, 64, 64)
                        if np.array_equal(pixels[..., ::step], crop.pixels):
                            masks = scenes.masks[scene, :, :, x : x + 64][..., ::step]
                            np.testing.assert_array_equal(masks, crop.masks)
                            met.add((scene, view, x, step))
    assert len(met) > 18  # of 24
