import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.prepare.geometry import (
    Box,
    Size,
    crop_origin,
    fit_size,
    flip,
    working_size,
)
from store.errors import ConfigError

sides = st.integers(1, 5000)
strides = st.sampled_from([8, 16, 32])


@pytest.mark.parametrize(
    ("raw", "fit", "resized", "working"),
    [
        ((1052, 1914), (1280, 720), (704, 1280), (704, 1280)),  # GTA5
        ((1046, 1914), (1280, 720), (700, 1280), (704, 1280)),  # GTA5, some frames
        ((1024, 2048), (1024, 512), (512, 1024), (512, 1024)),  # Cityscapes
        ((360, 480), None, (360, 480), (384, 480)),  # CamVid
        ((720, 1280), (512, 1024), (512, 910), (512, 928)),  # order of the sides is free
    ],
)
def test_sizes_are_those_of_the_papers(
    raw: Size, fit: tuple[int, int] | None, resized: Size, working: Size
) -> None:
    assert fit_size(raw, fit) == resized
    assert working_size(resized, 256) == working


@given(st.tuples(sides, sides), st.tuples(sides, sides))
def test_a_fitted_image_fills_one_side_and_overflows_none(raw: Size, fit: tuple[int, int]) -> None:
    resized = fit_size(raw, fit)
    assert max(resized) <= max(fit)
    assert min(resized) <= min(fit)
    assert max(resized) == max(fit) or min(resized) == min(fit)


@given(st.tuples(sides, sides), sides)
def test_a_working_image_is_the_smallest_that_holds_image_and_crop(
    resized: Size, crop: int
) -> None:
    for side, before in zip(working_size(resized, crop), resized, strict=True):
        assert side % 32 == 0
        assert max(before, crop) <= side < max(before, crop) + 32


@given(st.tuples(sides, sides), st.integers(1, 40), strides, st.integers(0, 2**32))
def test_a_crop_is_aligned_and_inside(resized: Size, units: int, align: int, seed: int) -> None:
    crop = units * align
    working = working_size(resized, crop)
    y, x = crop_origin(np.random.default_rng(seed), working, crop, align)
    assert y % align == x % align == 0
    assert 0 <= y <= working[0] - crop
    assert 0 <= x <= working[1] - crop


def test_a_crop_that_is_larger_than_the_image_or_not_aligned_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="64x64 does not fit in the working image of 32x96"):
        crop_origin(rng, (32, 96), 64, 8)
    with pytest.raises(ConfigError, match="60 px is not a multiple of 8 px"):
        crop_origin(rng, (96, 96), 60, 8)


def _crop(size: Size, align: int, seed: int) -> tuple[Size, Box]:
    working = working_size(size, 2 * align)
    y, x = crop_origin(np.random.default_rng(seed), working, 2 * align, align)
    return working, Box(y, x, 2 * align, 2 * align)


small = st.tuples(st.integers(1, 200), st.integers(1, 200))


@given(small, strides, st.integers(0, 100))
def test_the_tokens_of_a_crop_are_an_exact_slice_of_the_level(
    size: Size, stride: int, seed: int
) -> None:
    working, box = _crop(size, 32, seed)
    level = np.arange(working[0] * working[1] // stride**2).reshape(
        working[0] // stride, working[1] // stride
    )
    pixels = level.repeat(stride, 0).repeat(stride, 1)  # each pixel names its token
    rows, columns = box.slices
    token_rows, token_columns = box.to_tokens(stride).slices
    window = level[token_rows, token_columns]
    assert np.array_equal(window.repeat(stride, 0).repeat(stride, 1), pixels[rows, columns])


@given(small, strides, st.integers(0, 100))
def test_the_flip_of_a_window_is_the_mirrored_window_of_the_flip(
    size: Size, align: int, seed: int
) -> None:
    working, box = _crop(size, align, seed)
    image = np.random.default_rng(seed).integers(0, 256, (3, *working))
    rows, columns = box.slices
    mirrored = Box(box.y, working[1] - box.x - box.width, box.height, box.width)
    window = flip(image[:, rows, columns])
    assert np.array_equal(window, flip(image)[:, *mirrored.slices])
    assert np.array_equal(flip(flip(image)), image)
    assert window.flags.c_contiguous
