"""The look of a style: its own, one on the way to it from the day, or a random one."""

from collections.abc import Mapping
from dataclasses import fields, replace
from math import lcm
from typing import Any, Final, TypeVar

import numpy as np

from examples.drawn.world.style import DAY, DUSK, FOG, NIGHT, RGB, Look, Range, Style
from examples.drawn.world.wide import draw_wide

_K = TypeVar("_K")

LOOKS: Final[Mapping[Style, Look]] = {"day": DAY, "dusk": DUSK, "fog": FOG, "night": NIGHT}
"""Every style but `wide`, which has another look for each image."""


def look_of(style: Style, strength: float, rng: np.random.Generator) -> Look:
    """Return the look of one image.

    Args:
        style: Of the image.
        strength: How far the look is from the day's, 0 to 1; for `wide` always 1.
        rng: Source of the image's values, which only `wide` draws from here.
    """
    if style == "wide":
        return draw_wide(rng)
    return blend(DAY, LOOKS[style], strength)


def blend(one: Look, other: Look, share: float) -> Look:
    """Go a share of the way from one look to another, 0 to 1, in every number of the table."""
    if share in (0, 1):  # the table itself, down to the last bit
        return other if share else one

    def mix(a: float, b: float) -> float:
        return a + share * (b - a)

    def mix_ranges(a: Range, b: Range) -> Range:
        return mix(a[0], b[0]), mix(a[1], b[1])

    def mix_amounts(a: Mapping[_K, float], b: Mapping[_K, float]) -> dict[_K, float]:
        return {key: mix(a.get(key, 0.0), b.get(key, 0.0)) for key in {**a, **b}}

    changed: dict[str, Any] = {
        "palette": {m: _mix_colours(one.palette[m], other.palette[m], share) for m in one.palette},
        "variety": mix(one.variety, other.variety),
        "textures": {
            m: mix_amounts(one.textures.get(m, {}), other.textures.get(m, {}))
            for m in {**one.textures, **other.textures}
        },
        "glow": mix_amounts(one.glow, other.glow),
        "cast": tuple(mix_ranges(a, b) for a, b in zip(one.cast, other.cast, strict=True)),
    }
    for field in fields(Look):  # all others are ranges
        if field.name not in changed:
            changed[field.name] = mix_ranges(getattr(one, field.name), getattr(other, field.name))
    return replace(one, **changed)


def _mix_colours(one: tuple[RGB, ...], other: tuple[RGB, ...], share: float) -> tuple[RGB, ...]:
    """Mix colours in pairs; each list is stretched so that every colour keeps its share."""
    count = lcm(len(one), len(other))
    a, b = (np.repeat(np.array(c, dtype=float), count // len(c), axis=0) for c in (one, other))
    return tuple((int(r), int(g), int(b)) for r, g, b in np.rint(a + share * (b - a)))
