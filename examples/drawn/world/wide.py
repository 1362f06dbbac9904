"""The wide style: another random look for every image, for the pretraining of a teacher.

What a teacher learns over many looks is to be tried on targets that it has not met. The target's
neighbourhood is therefore held out: a look whose optics lie in one of the boxes of `HELD_OUT` is
drawn again. Fog and night lie outside the ranges of the wide style altogether.
"""

from collections.abc import Mapping
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from examples.drawn.world.shapes import Material
from examples.drawn.world.style import DAY, RGB, Look, Range, Texture

Optic = Literal["exposure", "red_over_green", "contrast", "haze"]
"""What light and air do to colours: gain, cast, gain around the mean, and haze per kilometre."""

WIDE_EXPOSURE: Final = (0.42, 1.25)
WIDE_CAST: Final = (0.72, 1.28)  # of each colour
WIDE_CONTRAST: Final = (0.50, 1.25)
WIDE_HAZE: Final = (0.0, 12.0)

ANY: Final = (0.0, float("inf"))

HELD_OUT: Final[Mapping[str, Mapping[Optic, Range]]] = {
    # around dusk: exposure 0.42..0.56, red over green 1.20..1.56, contrast 0.66..0.84, haze 3..7
    "dusk": {
        "exposure": (0.0, 0.72),
        "red_over_green": (1.10, 1.80),
        "contrast": (0.0, 0.95),
        "haze": ANY,
    },
    # haze 30..60, where the wide style ends at 12
    "fog": {"exposure": ANY, "red_over_green": ANY, "contrast": ANY, "haze": (20.0, 100.0)},
    # exposure 0.26..0.36, where the wide style begins at 0.42
    "night": {"exposure": (0.0, 0.40), "red_over_green": ANY, "contrast": ANY, "haze": ANY},
}
"""Boxes in the space of optics that no look of the wide style lies in."""


def optics(look: Look) -> dict[Optic, Range]:
    """Return the ranges of a look's optics."""
    (red, green, _) = look.cast
    return {
        "exposure": look.exposure,
        "red_over_green": (red[0] / green[1], red[1] / green[0]),
        "contrast": look.contrast,
        "haze": look.haze,
    }


def is_held_out(look: Look) -> bool:
    """Tell whether a look reaches into one of the boxes that are held out."""
    ranges = optics(look)
    return any(
        all(ranges[o][0] <= high and low <= ranges[o][1] for o, (low, high) in box.items())
        for box in HELD_OUT.values()
    )


def draw_wide(rng: np.random.Generator) -> Look:
    """Draw a look of its own for one image: colours, textures, light, air and lens.

    Returns:
        A look whose ranges are single values.
    """
    look = _draw(rng)
    while is_held_out(look):
        look = _draw(rng)
    return look


def _draw(rng: np.random.Generator) -> Look:
    def one(low: float, high: float) -> Range:
        value = float(rng.uniform(low, high))
        return value, value

    return Look(
        palette=_palette(rng),
        variety=float(rng.uniform(0.04, 0.20)),
        textures={material: _texture(rng) for material in Material},
        glow=_glow(rng),
        relief=one(0.0, 1.4),
        shadow=one(0.0, 0.5),
        clouds=one(0.0, 1.0),
        haze=one(*WIDE_HAZE),
        blotches=one(0.0, 0.22),
        falloff=one(-0.4, 0.4),
        exposure=one(*WIDE_EXPOSURE),
        cast=(one(*WIDE_CAST), one(*WIDE_CAST), one(*WIDE_CAST)),
        contrast=one(*WIDE_CONTRAST),
        blur=one(0.0, 0.9),
        noise=one(0.003, 0.040),
    )


def _palette(rng: np.random.Generator) -> dict[Material, tuple[RGB, ...]]:
    """Give every material random colours, or, now and then, colours around those of the day."""
    if rng.random() < 0.3:
        return {
            material: tuple(_rgb(np.array(colour) + rng.normal(0, 45, 3)) for colour in colours)
            for material, colours in DAY.palette.items()
        }
    return {
        material: tuple(_rgb(rng.uniform(16, 240, 3)) for _ in range(_colours(rng, material)))
        for material in Material
    }


def _colours(rng: np.random.Generator, material: Material) -> int:
    """Draw how many colours a material has; the sky's are zenith, horizon and cloud."""
    return 3 if material == Material.SKY else int(rng.integers(1, 6))


def _texture(rng: np.random.Generator) -> dict[Texture, float]:
    kinds: tuple[Texture, ...] = get_args(Texture)
    chosen = rng.random(len(kinds)) < 0.25
    strength = rng.uniform(0.02, 0.22, len(kinds))
    return {kind: float(strength[k]) for k, kind in enumerate(kinds) if chosen[k]}


def _glow(rng: np.random.Generator) -> dict[Material, float]:
    """Let a few materials give off light, in half of all looks."""
    if rng.random() < 0.5:
        return {}
    return {m: float(rng.uniform(0.1, 0.9)) for m in Material if rng.random() < 0.12}


def _rgb(colour: NDArray[np.float64]) -> RGB:
    red, green, blue = (int(value) for value in np.clip(colour, 6, 250))
    return red, green, blue
