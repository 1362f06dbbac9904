"""What a teacher's pretraining never meets, measured on what is drawn and not read off tables."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from examples.drawn.world.looks import LOOKS
from examples.drawn.world.paint import Field, photograph
from examples.drawn.world.style import DAY, DUSK, Look
from examples.drawn.world.wide import HELD_OUT, draw_wide, is_held_out, optics

LIGHT, DARK = 0.55, 0.25  # of the chart: what is taken off or added stays between 0 and 1


def chart() -> Field:
    """Draw a grey chart (3, 64, 64): light squares between dark ones, the same in every row."""
    y, x = np.indices((64, 64)) // 16
    return np.repeat(np.where((x + y) % 2, LIGHT, DARK)[None], 3, axis=0).astype(np.float32)


def measure(look: Look, seed: int) -> dict[str, float]:
    """Photograph the chart, and measure exposure, cast and contrast on the photo."""
    grey = chart()
    photo = photograph(look, np.random.default_rng(seed), grey.copy(), 0 * grey[0]) / 255.0
    mask = grey[0] > 0.4
    steps: NDArray[np.float64] = photo[mask].mean(0) - photo[~mask].mean(0)  # of red, green, blue
    level = photo.mean() / grey.mean()  # gain x mean cast
    red, green, blue = steps / steps.mean()
    cast = np.array([red, green, blue])
    return {
        "exposure": float(level),
        "red_over_green": float(cast[0] / cast[1]),
        "contrast": float(steps.mean() / (LIGHT - DARK) / level),
    }


def plain(look: Look) -> Look:
    """Leave out what blurs or wobbles a measurement."""
    none = (0.0, 0.0)
    return replace(look, blotches=none, falloff=none, blur=none, noise=none, glow={})


def in_box(values: dict[str, float], style: str) -> bool:
    box = HELD_OUT[style]
    return all(box[o][0] <= value <= box[o][1] for o, value in values.items())  # type: ignore[index]


def test_photos_of_a_chart_by_dusk_lie_in_the_box_and_those_by_day_do_not() -> None:
    assert all(in_box(measure(plain(DUSK), seed), "dusk") for seed in range(200))
    assert not any(in_box(measure(plain(DAY), seed), "dusk") for seed in range(200))


def test_no_photo_of_a_chart_in_the_wide_style_lies_in_a_box() -> None:
    looks = [draw_wide(np.random.default_rng(n)) for n in range(1000)]
    assert not any(is_held_out(look) for look in looks)
    for n, look in enumerate(looks):
        measured = measure(plain(look), n) | {"haze": look.haze[0]}
        # the colours' own gain is part of the measured exposure, hence of what is compared
        measured["exposure"] /= float(np.mean([low for low, _ in look.cast]))
        assert not any(in_box(measured, style) for style in HELD_OUT), (n, measured)


@pytest.mark.parametrize("style", ["dusk", "fog", "night"])
def test_the_whole_of_a_target_lies_in_its_box(style: str) -> None:
    look = LOOKS[style]  # type: ignore[index]
    for optic, (low, high) in optics(look).items():
        least, most = HELD_OUT[style][optic]
        assert least <= low <= high <= most, optic
