import numpy as np
import pytest

from examples.drawn.world import draw
from examples.drawn.world.layout import Layout
from examples.drawn.world.shapes import Label

SIZE_PX = (128, 256)


@pytest.fixture(scope="module")
def layouts() -> list[Layout]:
    return [Layout.of(seed=0, index=index, size_px=SIZE_PX) for index in range(12)]


def test_the_layout_is_what_is_drawn(layouts: list[Layout]) -> None:
    _, label = draw(seed=0, index=4, style="day", size_px=SIZE_PX)
    np.testing.assert_array_equal(layouts[4].label, label)


def test_every_object_is_of_one_class(layouts: list[Layout]) -> None:
    for layout in layouts:
        for number in np.unique(layout.instance):
            assert len(np.unique(layout.label[layout.instance == number])) == 1


def test_the_sky_is_object_0_and_the_road_is_one_object(layouts: list[Layout]) -> None:
    for layout in layouts:
        np.testing.assert_array_equal(layout.instance == 0, layout.label == Label.SKY)
        assert len(np.unique(layout.instance[layout.label == Label.ROAD])) == 1


def test_every_part_is_of_one_object_or_of_the_ground_between(layouts: list[Layout]) -> None:
    for layout in layouts:
        for number in np.unique(layout.part):
            inside = layout.part == number
            of = np.unique(layout.instance[inside])
            assert len(of) == 1 or (layout.label[inside] == Label.PAVEMENT).all()
