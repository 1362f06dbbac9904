from hashlib import sha256
from itertools import pairwise
from typing import get_args

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from examples.drawn.world import draw, draw_views
from examples.drawn.world.looks import LOOKS
from examples.drawn.world.shapes import Label
from examples.drawn.world.style import Style

SIZE_PX = (128, 256)
STYLES: tuple[Style, ...] = get_args(Style)
Drawn = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def gallery(style: Style) -> list[Drawn]:
    return [draw(seed=0, index=index, style=style, size_px=SIZE_PX) for index in range(50)]


@pytest.fixture(scope="module")
def day() -> list[Drawn]:
    return gallery("day")


@pytest.fixture(scope="module")
def dusk() -> list[Drawn]:
    return gallery("dusk")


def luminance(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    light: NDArray[np.float64] = rgb @ np.array([0.299, 0.587, 0.114])
    return light


def test_every_style_has_a_look_with_all_materials() -> None:
    assert {*LOOKS, "wide"} == set(STYLES)
    assert {len(look.palette) for look in LOOKS.values()} == {len(LOOKS["day"].palette)}


@pytest.mark.parametrize("style", STYLES)
def test_same_seed_and_index_draw_the_same_scene(style: Style) -> None:
    first, again = (draw(seed=3, index=7, style=style, size_px=SIZE_PX) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize("other", [(3, 8), (4, 7)])
def test_another_seed_or_index_draws_another_scene(other: tuple[int, int]) -> None:
    image, label = draw(seed=3, index=7, style="day", size_px=SIZE_PX)
    other_image, other_label = draw(seed=other[0], index=other[1], style="day", size_px=SIZE_PX)
    assert (label != other_label).mean() > 0.1
    assert np.abs(image.astype(float) - other_image).mean() > 10


def test_style_changes_the_image_and_never_the_label(day: list[Drawn], dusk: list[Drawn]) -> None:
    for (bright, label), (dim, same) in zip(day, dusk, strict=True):
        np.testing.assert_array_equal(label, same)
        assert np.abs(bright.astype(float) - dim).mean() > 20


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(64, 200),
    width=st.integers(64, 300),
    index=st.integers(0, 10_000),
    style=st.sampled_from(STYLES),
)
def test_any_size_is_drawn(height: int, width: int, index: int, style: Style) -> None:
    image, label = draw(seed=0, index=index, style=style, size_px=(height, width))
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert label.shape == (height, width)
    assert label.dtype == np.uint8
    assert label.max() < len(Label)


def test_a_scene_is_the_same_at_twice_the_size() -> None:
    _, small = draw(seed=0, index=5, style="day", size_px=SIZE_PX)
    _, large = draw(seed=0, index=5, style="day", size_px=(2 * SIZE_PX[0], 2 * SIZE_PX[1]))
    assert (large[::2, ::2] == small).mean() > 0.95


def test_all_classes_have_their_share_of_the_world(day: list[Drawn]) -> None:
    counts = np.stack([np.bincount(label.ravel(), minlength=len(Label)) for _, label in day])
    share, present = counts.sum(0) / counts.sum(), (counts > 20).mean(0)
    expected = {
        Label.SKY: (0.08, 0.25), Label.ROAD: (0.15, 0.35), Label.PAVEMENT: (0.05, 0.15),
        Label.BUILDING: (0.18, 0.38), Label.TREE: (0.05, 0.15), Label.POLE: (0.01, 0.04),
        Label.SIGN: (0.006, 0.03), Label.FENCE: (0.015, 0.06), Label.CAR: (0.03, 0.12),
        Label.PERSON: (0.015, 0.06), Label.BICYCLE: (0.005, 0.03),
    }  # fmt: skip
    for label, (least, most) in expected.items():
        assert least < share[label] < most, label.name
        assert present[label] > 0.6, label.name


def test_perspective_puts_the_sky_above_the_road_and_widens_the_road_below(
    day: list[Drawn],
) -> None:
    rows = np.arange(SIZE_PX[0])
    for _, label in day:
        sky, road = ((label == wanted).sum(1) for wanted in (Label.SKY, Label.ROAD))
        assert not sky[int(0.6 * SIZE_PX[0]) :].any()
        assert not road[: int(0.4 * SIZE_PX[0])].any()
        assert (sky @ rows) / sky.sum() < (road @ rows) / road.sum()
    mean_road = np.mean([(label == Label.ROAD).sum(1) for _, label in day], axis=0)
    quarters = [mean_road[start : start + 16].mean() for start in range(64, 128, 16)]
    assert all(near > far for far, near in pairwise(quarters))


def test_dusk_is_dim_flat_and_purple_where_day_is_bright_and_neutral(
    day: list[Drawn], dusk: list[Drawn]
) -> None:
    def mean_colour(drawn: list[Drawn]) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = np.stack([image.mean((0, 1)) for image, _ in drawn]).mean(0)
        return mean

    def level(drawn: list[Drawn]) -> tuple[float, float]:
        lights = [luminance(image) for image, _ in drawn]
        return float(np.mean(lights)), float(np.mean([light.std() for light in lights]))

    (bright, crisp), (dim, flat) = level(day), level(dusk)
    assert 105 < bright < 140
    assert 50 < dim < 70
    assert flat < 0.65 * crisp
    red, green, blue = mean_colour(dusk)
    assert red > 1.25 * green
    assert blue > 1.05 * green
    neutral = mean_colour(day)
    assert neutral.max() < 1.2 * neutral.min()


def test_things_are_told_apart_in_every_style(day: list[Drawn], dusk: list[Drawn]) -> None:
    for drawn, least in ((day, 8.0), (dusk, 3.0)):
        step = []
        for image, label in drawn:
            edge = label[:, 1:] != label[:, :-1]
            step.append(np.abs(np.diff(luminance(cv2.blur(image, (3, 3))), axis=1))[edge].mean())
        assert np.mean(step) > least


def test_a_negative_index_is_refused() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        draw(seed=0, index=-1, style="day", size_px=SIZE_PX)


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


def test_night_is_dark_and_fog_swallows_what_is_far() -> None:
    def drawn(style: Style) -> list[Drawn]:
        return [draw(seed=0, index=i, style=style, size_px=SIZE_PX) for i in range(12)]

    def contrast_of_houses(images: list[Drawn]) -> float:  # they are mostly far
        return float(
            np.mean([luminance(image)[label == Label.BUILDING].std() for image, label in images])
        )

    night, fog, day = drawn("night"), drawn("fog"), drawn("day")
    assert np.mean([luminance(image).mean() for image, _ in night]) < 40
    assert np.mean([luminance(image).mean() for image, _ in fog]) > 110
    assert contrast_of_houses(fog) < 0.6 * contrast_of_houses(day)
