from hashlib import sha256
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from examples.drawn.world import draw, draw_views
from examples.drawn.world.looks import LOOKS
from examples.drawn.world.style import Style

SIZE_PX = (128, 256)
STYLES: tuple[Style, ...] = get_args(Style)


def luminance(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    light: NDArray[np.float64] = rgb @ np.array([0.299, 0.587, 0.114])
    return light


def test_every_style_has_a_look_with_all_materials() -> None:
    assert {*LOOKS, "wide"} == set(STYLES)
    assert {len(look.palette) for look in LOOKS.values()} == {len(LOOKS["day"].palette)}


def test_style_changes_the_image_and_never_the_label() -> None:
    for index in range(8):
        (bright, label), (dim, same) = (
            draw(seed=0, index=index, style=style, size_px=SIZE_PX) for style in ("day", "dusk")
        )
        np.testing.assert_array_equal(label, same)
        assert np.abs(bright.astype(float) - dim).mean() > 20


@pytest.mark.parametrize(
    ("style", "digest"),
    [("day", "520c96be240052c2"), ("dusk", "5dc74ee6b4fc22a5")],  # before there were other styles
)
def test_day_and_dusk_stay_what_they_were_down_to_the_last_bit(style: Style, digest: str) -> None:
    found = sha256()
    for index in (0, 1, 7, 1_000_003):
        for part in draw(seed=2, index=index, style=style, size_px=SIZE_PX):
            found.update(part.tobytes())
    assert found.hexdigest().startswith(digest)


def test_strength_goes_from_the_day_to_the_whole_style() -> None:
    def mean(strength: float) -> float:
        drawn = [
            draw(seed=0, index=i, style="dusk", size_px=SIZE_PX, strength=strength)[0]
            for i in range(8)
        ]
        return float(np.mean([luminance(image).mean() for image in drawn]))

    whole = draw(seed=0, index=3, style="dusk", size_px=SIZE_PX)[0]
    np.testing.assert_array_equal(
        draw(seed=0, index=3, style="dusk", size_px=SIZE_PX, strength=1.0)[0], whole
    )
    lights = [mean(strength) for strength in (0.0, 0.3, 0.6, 1.0)]
    assert all(lighter > darker + 8 for lighter, darker in pairwise(lights))
    assert 105 < lights[0] < 140  # as by day


def test_views_are_of_the_same_objects_in_other_looks() -> None:
    images, instance, part = draw_views(seed=0, index=5, style="wide", size_px=SIZE_PX, views=3)
    again, *_ = draw_views(seed=0, index=5, style="wide", size_px=SIZE_PX, views=3)
    np.testing.assert_array_equal(images, again)
    assert images.shape == (3, *SIZE_PX, 3)
    assert instance.shape == part.shape == SIZE_PX
    for first, second in ((0, 1), (1, 2)):
        assert np.abs(images[first].astype(float) - images[second]).mean() > 20
