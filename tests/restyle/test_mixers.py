"""A mixer takes from the style what it is named after, and leaves the content where it was."""

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

from stages.restyle.mixers import MixerConfig
from stages.restyle.mixers.mixer import Mixer
from stages.restyle.mixers.statistics import covariance, pyramid, transport

KINDS: dict[str, dict[str, Any]] = {
    "statistics": {"octaves": 3, "max_gain": 2.0},
    "fourier": {"band": 0.1},
    "color": {},
}
ALL = KINDS | {"jitter": {}}  # which takes nothing from the style
RNG = np.random.default_rng(0)


def mixer(kind: str, strength: float = 1.0, **keys: Any) -> Mixer:  # noqa: ANN401 - of params
    section = {"kind": kind, "strength": strength, **ALL[kind], **keys}
    made: Mixer = TypeAdapter(MixerConfig).validate_python(section)
    return made


def photo(seed: int, size: tuple[int, int] = (48, 64), low: int = 60, high: int = 180) -> Any:  # noqa: ANN401
    """Soft blobs with some grain, (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(low, high, (6, 8, 3)).astype(np.float32)
    soft = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(soft + rng.normal(0, 3, soft.shape), 0, 255).astype(np.uint8)


def log(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.log(image.astype(np.float32) + 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_strength_of_zero_changes_no_bit_and_half_goes_half_of_the_way(kind: str) -> None:
    content, style = photo(1), photo(2, low=10, high=90)
    none, half, full = (mixer(kind, strength).mix(content, style) for strength in (0, 0.5, 1))
    np.testing.assert_array_equal(none, content)
    assert content.mean() > half.mean() + 10 > full.mean() + 20


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("size", [(1, 1), (2, 33), (100, 31)])
def test_any_sizes_and_flat_images_mix_to_the_size_of_the_content(
    kind: str, size: tuple[int, int]
) -> None:
    made, style = mixer(kind), photo(3, (20, 50))
    for content in (photo(4, size), np.full((*size, 3), 255, np.uint8), np.zeros((*size, 3), "u1")):
        for one, other in ((content, style), (style, content)):
            mixed = made.mix(one, other)
            assert mixed.shape == one.shape
            assert mixed.dtype == np.uint8
            np.testing.assert_array_equal(made.mix(one, other), mixed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_light_in_the_dark_stays_the_brightest_in_any_style(kind: str) -> None:
    content, style = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    content[5, 7], style[:, 32:] = 255, 255
    mixed = mixer(kind).mix(content, style)
    assert (mixed[5, 7] == mixed.max()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_in_its_own_style_stays_as_it_is(kind: str) -> None:
    content = photo(5)
    assert np.abs(mixer(kind).mix(content, content).astype(int) - content).max() <= 2


def test_the_transport_of_gaussians_is_symmetric_and_gives_the_covariance_that_is_wanted() -> None:
    of_axes = transport(np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 1.0, 9.0]))
    np.testing.assert_allclose(of_axes, np.diag([2.0, 0.5, 1.0]), atol=1e-12)
    one, other = (factor @ factor.T + np.eye(3) for factor in RNG.standard_normal((2, 3, 3)))
    moves = transport(one, other)
    np.testing.assert_allclose(moves, moves.T, atol=1e-10)
    np.testing.assert_allclose(moves @ one @ moves, other, atol=1e-10)


def test_statistics_moves_colours_to_the_mean_and_covariance_of_the_style() -> None:
    content, style = photo(1), photo(2, (30, 90), low=20, high=120)
    mixed = log(mixer("statistics", octaves=0).mix(content, style))
    np.testing.assert_allclose(mixed.mean((0, 1)), log(style).mean((0, 1)), atol=5e-3)
    np.testing.assert_allclose(covariance(mixed), covariance(log(style)), atol=5e-3)


@pytest.mark.parametrize(("grain", "most"), [(1.4, 4.0), (3.0, 1.2), (0.0, 1.5)])
def test_statistics_scales_each_octave_to_the_style_within_its_bounds(
    grain: float, most: float
) -> None:
    content = photo(1)
    soft = cv2.GaussianBlur(content.astype(np.float32), (0, 0), 3)
    style = np.clip(soft + grain * (content - soft), 0, 255).astype(np.uint8)
    keys = {"octaves": 2, "max_gain": most}
    recoloured = mixer("statistics", octaves=0).mix(content, style)
    before, after, like = (
        np.array([band.std() for band in pyramid(log(image), 2)[:2]])
        for image in (recoloured, mixer("statistics", **keys).mix(content, style), style)
    )
    assert after == pytest.approx(before * np.clip(like / before, 1 / most, most), rel=0.15)
    assert (np.abs(np.log(after / like)) < np.abs(np.log(before / like))).all()


def test_fourier_swaps_the_amplitude_of_low_frequencies_and_no_other() -> None:
    content, style = photo(1), photo(2, low=70, high=190)
    before, after, like = (
        np.fft.fft2(image, axes=(0, 1))
        for image in (content, mixer("fourier").mix(content, style), style)
    )
    frequency = [np.abs(np.fft.fftfreq(n, 1 / n)) for n in content.shape[:2]]
    low = np.maximum.outer(*frequency) <= 4  # a tenth of 48
    rounding = 4 * np.sqrt(content.size / 3 / 12)  # of pixels to integers, four deviations
    np.testing.assert_allclose(after[~low], before[~low], atol=rounding)
    np.testing.assert_allclose(np.abs(after[low]), np.abs(like[low]), atol=2 * rounding)
    strong = low[..., None] & (np.abs(like) > 20 * rounding) & (np.abs(before) > 20 * rounding)
    np.testing.assert_allclose(np.angle(after[strong] / before[strong]), 0, atol=0.2)


def test_colour_moves_mean_and_spread_of_lab() -> None:
    content, style = photo(1), photo(2, low=60, high=150)
    lab = [
        cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        for image in (mixer("color").mix(content, style), style)
    ]
    for moment in (np.mean, np.std):
        one, other = (moment(image, axis=(0, 1)) for image in lab)
        np.testing.assert_allclose(one, other, atol=0.3)


def test_jitter_draws_factors_for_each_pair_within_its_strength() -> None:
    """What each factor keeps of brightness, contrast and colour: the others cancel out."""
    half = np.full((8, 8, 3), 40, np.uint8)
    half[4:] = 80
    red = np.full((8, 8, 3), [100, 40, 40], np.uint8)
    styles = [np.full((2, 3, 3), grey, np.uint8) for grey in range(250)]
    np.testing.assert_array_equal(mixer("jitter", 0).mix(half, styles[0]), half)
    made = mixer("jitter", 0.5)
    dark, light = np.array([made.mix(half, style)[[0, 7], 0, 0] for style in styles]).T / 60
    brightness, contrast = (dark + light) / 2, 3 * (light - dark) / (dark + light)
    for factor in (brightness, contrast):
        assert 0.44 < factor.min() < 0.56
        assert 1.44 < factor.max() < 1.56
        assert factor.mean() == pytest.approx(1, abs=0.06)
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.2
    mixed = np.array([made.mix(red, style)[0, 0] for style in styles]).astype(float)
    colour = (mixed[:, 0] - mixed[:, 1]) / 60
    assert colour.min() < 0.3  # the product of all three
    assert colour.max() > 2
