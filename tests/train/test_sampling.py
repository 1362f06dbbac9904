import numpy as np
import pytest
from numpy.typing import NDArray

from stages.prepare.geometry import Box
from stages.prepare.labels import IGNORE
from stages.train.config import RareClassConfig
from stages.train.crops import (
    RareClassSampler,
    class_probabilities,
    draw_crop,
    redraw_until_enough,
    varied,
)
from store.errors import ConfigError, DataError

NAMES = ["road", "pole", "car", "train"]
COUNTS = np.array([[900, 0, 100, 0], [500, 40, 0, 0], [400, 10, 50, 0]], np.int64)


def sampler(min_pixels: int, counts: NDArray[np.int64] = COUNTS) -> RareClassSampler:
    config = RareClassConfig(temperature=0.5, min_pixels=min_pixels, min_crop_ratio=0.5)
    return RareClassSampler(counts, NAMES, config)


def test_rare_classes_come_first_and_absent_ones_never() -> None:
    classes, probabilities = class_probabilities(COUNTS, 0.5)
    assert classes.tolist() == [1, 2, 0]
    share = np.array([50, 150, 1800]) / 2000
    odds = np.exp((1 - share) / 0.5)
    assert np.allclose(probabilities, odds / odds.sum(), atol=1e-6)


def test_a_low_temperature_asks_for_the_rarest_class_almost_always() -> None:
    _, cold = class_probabilities(COUNTS, 0.001)
    _, hot = class_probabilities(COUNTS, 1000)
    assert cold[0] > 0.999
    assert np.allclose(hot, 1 / 3, atol=1e-3)


def test_classes_and_images_are_drawn_as_often_as_they_should() -> None:
    rare, rng = sampler(9), np.random.default_rng(0)
    drawn = [rare.draw(rng) for _ in range(6000)]
    for class_id, probability in zip(*class_probabilities(COUNTS, 0.5), strict=True):
        images = [image for c, image in drawn if c == class_id]
        assert len(images) / len(drawn) == pytest.approx(probability, abs=0.02)
        allowed = np.flatnonzero(COUNTS[:, class_id] > 9)
        assert set(images) == set(allowed)
        for image in allowed.tolist():
            assert images.count(image) / len(images) == pytest.approx(1 / len(allowed), abs=0.04)


def test_an_image_with_exactly_the_threshold_is_not_drawn() -> None:
    rare, rng = sampler(10), np.random.default_rng(0)
    assert {image for c, image in (rare.draw(rng) for _ in range(200)) if c == 1} == {1}


def test_a_class_that_no_image_shows_enough_of_is_named_with_the_cure() -> None:
    with pytest.raises(ConfigError) as caught:
        sampler(40)
    assert str(caught.value) == (
        "rare class sampling: no image has more than 40 pixels of pole (at most 40); "
        "set train.rare_class_sampling.min_pixels to 39 or less"
    )
    sampler(39)


def test_the_cure_helps_all_classes_that_lack_pixels() -> None:
    with pytest.raises(ConfigError, match=r"pole \(at most 40\), car \(at most 100\).* 39 or less"):
        sampler(100)


def test_labels_without_any_labelled_pixel_are_refused() -> None:
    with pytest.raises(DataError, match="no labelled pixel"):
        sampler(0, np.zeros((3, 4), np.int64))


def test_a_crop_needs_more_than_its_share_of_the_threshold() -> None:
    rare = sampler(9)  # 4.5 pixels
    label = np.zeros((4, 4), np.uint8)
    label[0] = 1
    assert not rare.enough(label, 1)
    label[1, 0] = 1
    assert rare.enough(label, 1)


@pytest.mark.parametrize(("good", "draws"), [(1, 1), (3, 3), (10, 10), (11, 11), (99, 11)])
def test_draws_end_with_a_good_one_or_the_eleventh(good: int, draws: int) -> None:
    numbers = iter(range(1, 100))
    assert redraw_until_enough(lambda: next(numbers), lambda number: number >= good) == draws
    assert next(numbers) == draws + 1


def test_the_eleventh_draw_is_not_looked_at() -> None:
    seen: list[int] = []
    numbers = iter(range(1, 100))

    def enough(number: int) -> bool:
        seen.append(number)
        return False

    redraw_until_enough(lambda: next(numbers), enough)
    assert seen == list(range(1, 11))


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([0, 0, 1, 1], True),
        ([0, 0, 0, 1], False),  # exactly 0.75
        ([0, 0, 0, 0], False),
        ([0, 1, IGNORE, IGNORE], True),  # ignored pixels count for nothing
        ([0, 0, IGNORE, IGNORE], False),
        ([IGNORE, IGNORE, IGNORE, IGNORE], False),
    ],
)
def test_a_crop_is_varied_where_no_class_prevails(pixels: list[int], expected: bool) -> None:
    assert varied(np.array([pixels], np.uint8), 0.75) == expected


def crops(label: NDArray[np.uint8], max_class_share: float, number: int) -> list[Box]:
    rng = np.random.default_rng(0)
    return [
        draw_crop(
            rng,
            working_px=(label.shape[0], label.shape[1]),
            crop_px=32,
            align_px=8,
            max_class_share=max_class_share,
            label_in=lambda box: label[box.slices],
        )
        for _ in range(number)
    ]


def test_crops_avoid_places_with_one_class() -> None:
    label = np.zeros((32, 96), np.uint8)
    label[:, 64:] = 1
    # Of the nine origins only 48 has two classes below 0.75; 40 and 56 have exactly 0.75 of one.
    origins = [box.x for box in crops(label, 0.75, 3000)]
    assert origins.count(48) / 3000 == pytest.approx(1 - (8 / 9) ** 11, abs=0.03)
    assert set(origins) == set(range(0, 65, 8))  # the eleventh draw is kept, whatever it shows
    unchecked = [box.x for box in crops(label, 1, 3000)]
    assert unchecked.count(48) / 3000 == pytest.approx(1 / 9, abs=0.03)


def test_a_label_without_variety_still_gives_a_crop() -> None:
    [box] = crops(np.zeros((64, 64), np.uint8), 0.75, 1)
    assert (box.height, box.width) == (32, 32)


def test_target_crops_look_at_no_label() -> None:
    origins = set()
    rng = np.random.default_rng(0)
    for _ in range(100):
        box = draw_crop(
            rng, working_px=(32, 64), crop_px=32, align_px=32, max_class_share=0.75, label_in=None
        )
        origins.add((box.y, box.x))
    assert origins == {(0, 0), (0, 32)}
