from dataclasses import fields

import numpy as np
import pytest

from examples.drawn.world.looks import LOOKS, blend, look_of
from examples.drawn.world.shapes import Material
from examples.drawn.world.style import DAY, DUSK, Look


@pytest.mark.parametrize("style", ["day", "dusk", "fog", "night"])
def test_a_whole_style_is_its_table_and_none_of_it_is_the_day(style: str) -> None:
    rng = np.random.default_rng(0)
    look = LOOKS[style]  # type: ignore[index]
    assert look_of(style, 1.0, rng) is look  # type: ignore[arg-type]
    assert look_of(style, 0.0, rng) is DAY  # type: ignore[arg-type]
    assert rng.random() == np.random.default_rng(0).random()  # nothing was drawn


def test_half_way_every_range_is_half_way() -> None:
    half = blend(DAY, DUSK, 0.5)
    assert half.exposure == pytest.approx((0.64, 0.79))
    assert half.cast[1] == pytest.approx((0.875, 0.945))
    assert half.glow[Material.LAMP] == pytest.approx(0.45)
    assert half.textures[Material.ASPHALT] == pytest.approx(
        {"grain": 0.025, "mottle": 0.065, "wet": 0.10}
    )


def test_palettes_of_unequal_length_keep_the_share_of_every_colour() -> None:
    mixed = blend(DAY, DUSK, 0.5).palette[Material.ASPHALT]  # of three colours and of two
    assert len(mixed) == 6
    day, dusk = np.array(DAY.palette[Material.ASPHALT]), np.array(DUSK.palette[Material.ASPHALT])
    np.testing.assert_allclose(
        mixed, (day[[0, 0, 1, 1, 2, 2]] + dusk[[0, 0, 0, 1, 1, 1]]) / 2, atol=0.5
    )


def test_the_wide_style_has_another_look_for_each_image() -> None:
    looks = [look_of("wide", 1.0, np.random.default_rng(n)) for n in (1, 2, 1)]
    assert looks[0] == looks[2] != looks[1]
    single = {"palette", "textures", "glow", "variety", "cast"}
    for name in {field.name for field in fields(Look)} - single:
        low, high = getattr(looks[0], name)
        assert low == high, name
