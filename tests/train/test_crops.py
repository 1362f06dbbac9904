import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from stages.prepare.labels import IGNORE
from stages.prepare.manifest import Domain, ImageRecord
from stages.train.config import RareClassConfig, TrainConfig
from stages.train.crops import (
    TARGET_SHARE,
    RareClassSampler,
    Sample,
    batches,
    varied,
)
from store.errors import ConfigError, DataError, TrainingError
from store.read import FeatureReader
from store.spec import Level, stride_of, upright
from tests.store import worlds as stores
from tests.train.example import train_config
from tests.train.world import World, assert_same, entry_of, features

CROP = 64
LEVELS = ["stride8", "stride8", "stride16", "stride16"]
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Place:
    """Where a crop was cut out; `y` and `x` in working pixels."""

    record: ImageRecord
    y: int
    x: int
    mirrored: bool

    def cut(self, working: NDArray[Any], stride: int = 1) -> NDArray[Any]:
        y, x, side = self.y // stride, self.x // stride, CROP // stride
        window = working[..., y : y + side, x : x + side]
        return window[..., ::-1] if self.mirrored else window


def config(**changes: Any) -> TrainConfig:  # noqa: ANN401
    regularizer = {"on": ["source", "mixed"], "levels": LEVELS} | changes.pop("regularizer", {})
    return train_config(**{"crop_align_px": 16, "regularizer": regularizer} | changes)


@cache
def pixels(world: World, record: ImageRecord) -> NDArray[np.uint8]:
    """The working image (3, H, W), by Pillow and OpenCV alone."""
    root = world.folder / ("restyled" if record.domain == "restyled" else "drawn")
    raw = np.array(Image.open(root / record.image))
    height, width = record.resized_size_px
    working = np.empty((3, *record.working_size_px), np.uint8)
    working[:] = np.rint(MEAN)[:, None, None]
    working[:, :height, :width] = cv2.resize(raw, (width, height)).transpose(2, 0, 1)
    return working


def label(world: World, record: ImageRecord) -> NDArray[np.uint8]:
    """The working label (H, W); 255 in the padding."""
    assert record.label is not None
    ids = np.array(Image.open(world.roots[record.domain] / record.label))
    height, width = record.resized_size_px
    working = np.full(record.working_size_px, 255, np.uint8)
    working[:height, :width] = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST)
    return working


def locate(world: World, domain: Domain | None, image: NDArray[np.float32], align_px: int) -> Place:
    """Find the only place that shows these pixels, of both domains where none is named."""
    values = image * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None]
    shown = np.rint(values).astype(np.uint8)
    every = world.manifest.select(split="train") if domain is None else world.records(domain)
    found = [
        place
        for record in every
        for place in all_places(record, align_px)
        if np.array_equal(shown, place.cut(pixels(world, record)))
    ]
    assert len(found) == 1
    return found[0]


def all_places(record: ImageRecord, align_px: int) -> Iterator[Place]:
    height, width = record.working_size_px
    for y in range(0, height - CROP + 1, align_px):
        for x in range(0, width - CROP + 1, align_px):
            for mirrored in (False, True):
                yield Place(record, y, x, mirrored)


def loaded(crops: Dataset[Sample], config: TrainConfig, start: int = 0) -> list[dict[str, Any]]:
    found = batches(crops, config, start=start, device=torch.device("cpu"))
    return [{part.name: getattr(batch, part.name) for part in fields(batch)} for batch in found]


def changed(world: World, folder: Path, **files: bytes | None) -> World:
    """A copy of the world in which some files of a domain hold other bytes, or are gone."""
    copy = world.copy(folder)
    for pattern, data in files.items():
        domain, kind = pattern.split("_")
        style = {"source": "day", "target": "dusk"}[domain]
        found = list((copy.folder / "drawn").glob(f"{style}-*/train/{kind}/*.png"))
        assert found
        for path in found:
            path.unlink()
            if data is not None:
                path.write_bytes(data)
    return copy


@pytest.mark.parametrize("domain", ["source", "target"])
def test_what_comes_with_a_crop_lies_under_its_image(world: World, domain: Domain) -> None:
    crops = world.crops(config(self_training={"ignore_top_px": 5, "ignore_bottom_px": 9}))
    seen = []
    for index in range(16):
        sample = crops[index]
        place = locate(world, domain, sample[f"{domain}_image"], 16)
        whole: NDArray[Any]
        if domain == "source":
            part, whole = "source_label", label(world, place.record)
        else:
            height, width = place.record.resized_size_px  # the margins are rows of this
            part, whole = "target_valid", np.zeros(place.record.working_size_px, np.bool_)
            whole[5 : height - 9, :width] = True
        np.testing.assert_array_equal(sample[part], place.cut(whole))
        assert list(sample[f"{domain}_features"]) == ["stride8", "stride16"]
        for level, stride in (("stride8", 8), ("stride16", 16)):
            window = sample[f"{domain}_features"][level]
            assert window.dtype == np.float16
            np.testing.assert_array_equal(window, place.cut(features(place.record, level), stride))
        seen.append(place)
    assert {place.mirrored for place in seen} == {False, True}
    assert len({(place.y, place.x) for place in seen}) > 3
    assert len({place.record.image_id for place in seen}) > 3


def test_mirrored_crops_are_those_of_mirrored_images_where_these_are_stored(
    world: World, tmp_path: Path
) -> None:
    """Which makes it another run."""
    flipping, before = world.copy(tmp_path / "world"), config()
    out = tmp_path / "out"
    flipping.train(before, out)
    used = before.regularizer.used_levels
    levels = (*used, *(f"{level}_flipped" for level in used))
    offered = {level: Level(stride_of(upright(level)), 4) for level in levels}
    flipping.embed(levels=levels, offered=offered)
    crops = pickle.loads(pickle.dumps(flipping.crops(before)))
    seen, spec = set(), FeatureReader(flipping.store("source")).header.spec
    for index in range(12):
        sample = crops[index]
        place = locate(flipping, "source", sample["source_image"], 16)
        seen.add(place.mirrored)
        for level, found in sample["source_features"].items():
            stored = f"{level}_flipped" if place.mirrored else level
            whole = stores.features(entry_of(place.record), stored, spec=spec)
            wanted = place.cut(whole, stride_of(level)).astype(np.float16)
            np.testing.assert_array_equal(found, wanted)
    assert seen == {False, True}
    with pytest.raises(ConfigError, match="holds another run"):
        flipping.train(before, out)


def test_a_sample_depends_on_seed_and_index_alone(world: World) -> None:
    forwards, backwards = world.crops(config()), world.crops(config())
    first = [forwards[index] for index in range(8)]
    np.random.default_rng(1)
    torch.manual_seed(99)
    last = [backwards[index] for index in reversed(range(8))]
    assert_same(first, last[::-1])
    other = world.crops(config(seed=1))
    assert not any(
        np.array_equal(sample["source_image"], other[index]["source_image"])
        and np.array_equal(sample["target_image"], other[index]["target_image"])
        for index, sample in enumerate(first)
    )


def test_labels_of_target_training_images_are_never_read(world: World, tmp_path: Path) -> None:
    blind = changed(world, tmp_path / "blind", target_labels=b"not an image")
    expected = world.crops(config())
    for index, sample in enumerate(blind.crops(config())[n] for n in range(12)):
        assert_same(sample, expected[index])


@pytest.mark.parametrize("rare", [None, {"temperature": 1, "min_pixels": 0, "min_crop_ratio": 0}])
def test_a_few_labelled_target_images_are_half_of_the_labelled_crops(
    world: World, tmp_path: Path, rare: dict[str, float] | None
) -> None:
    few = world.copy(tmp_path / "few")
    few.prepare(labelled=2)
    kept = {record.label for record in few.records("target")} - {None}
    assert len(kept) == 2
    for path in few.folder.glob("drawn/dusk-*/train/labels/*.png"):  # no other label is read
        if not any(path.match(str(label)) for label in kept):
            path.unlink()
    chosen = config(rare_class_sampling=rare, regularizer={"on": ["source"]})
    crops = few.crops(chosen)
    of_target = 0
    for index in range(60):
        sample = crops[index]
        place = locate(few, None, sample["source_image"], 16)
        np.testing.assert_array_equal(sample["source_label"], place.cut(label(few, place.record)))
        window = place.cut(features(place.record, "stride8"), 8)
        np.testing.assert_array_equal(sample["source_features"]["stride8"], window)
        of_target += place.record.domain == "target"
        assert locate(few, "target", sample["target_image"], 16).record.label is None
    assert of_target == pytest.approx(60 * TARGET_SHARE, abs=13)


def test_without_self_training_no_target_image_is_read(world: World, tmp_path: Path) -> None:
    alone = changed(world, tmp_path / "alone", target_images=None, target_labels=None)
    plain = config(self_training=None, regularizer={"on": ["source"]})
    crops = alone.crops(plain)
    for index in range(8):
        sample, expected = crops[index], world.crops(config())[index]
        assert not sample["target_image"].any()
        assert not sample["target_valid"].any()
        assert sample["target_features"] == {}
        # arms that are compared see the same source crops
        for part in ("source_image", "source_label", "source_features"):
            assert_same(sample[part], expected[part])


def test_arms_without_features_see_the_same_crops(world: World) -> None:
    plain = world.crops(config(regularizer={"on": []}))
    enhanced = world.crops(config())
    for index in range(8):
        sample, expected = plain[index], enhanced[index]
        assert sample["source_features"] == sample["target_features"] == {}
        for part in ("source_image", "source_label", "target_image", "target_valid"):
            assert_same(sample[part], expected[part])


def test_a_target_is_demanded_by_self_training(tmp_path: Path) -> None:
    lonely = World(tmp_path / "lonely")
    lonely.prepare(images=1, target=False)
    with pytest.raises(DataError, match=r"no training image of the target: set prepare\.target"):
        lonely.crops(config(regularizer={"on": []}))
    crops = lonely.crops(config(self_training=None, regularizer={"on": []}))
    assert crops[0]["source_image"].any()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_changed_is_refused_in_one_line(
    world: World, tmp_path: Path, workers: int
) -> None:
    other = (world.roots["source"] / world.records("source")[0].image).read_bytes()
    swapped = changed(world, tmp_path / "swapped", target_images=other)
    few = config(iterations=2, workers=workers)
    with pytest.raises(DataError, match="changed since the manifest was made") as caught:
        loaded(swapped.crops(few), few)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(swapped.folder))


@dataclass(frozen=True)
class Failing(Dataset[Sample]):
    """Samples whose loader process is killed, or fails with an error."""

    error: Exception | None

    def __getitem__(self, index: int) -> Sample:
        if self.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        raise self.error or AssertionError


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (None, "exited unexpectedly"),
        (RuntimeError("unable to write </torch_1>: No space left on device (28)"), "torch_1"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_loader_process_without_memory_is_one_line(error: Exception | None, says: str) -> None:
    few = config(iterations=2, workers=1)
    with pytest.raises(
        TrainingError, match=r"a loader process failed \(.*train\.workers"
    ) as caught:
        loaded(Failing(error), few)
    assert says in str(caught.value)
    assert "/dev/shm" in str(caught.value)
    assert "\n" not in str(caught.value)


NAMES = ["road", "pole", "car", "train"]
COUNTS = np.array([[900, 0, 100, 0], [500, 40, 0, 0], [400, 10, 50, 0]], np.int64)


def sampler(min_pixels: int, counts: NDArray[np.int64] = COUNTS) -> RareClassSampler:
    config = RareClassConfig(temperature=0.5, min_pixels=min_pixels, min_crop_ratio=0.5)
    return RareClassSampler(counts, NAMES, config)


def test_a_class_that_no_image_shows_enough_of_is_named_with_the_cure() -> None:
    with pytest.raises(ConfigError) as caught:
        sampler(40)
    assert str(caught.value) == (
        "rare class sampling: no image has more than 40 pixels of pole (at most 40); "
        "set train.rare_class_sampling.min_pixels to 39 or less"
    )
    sampler(39)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([0, 0, 1, 1], True),
        ([0, 0, 0, 1], False),  # exactly 0.75
        ([0, 1, IGNORE, IGNORE], True),  # ignored pixels count for nothing
        ([IGNORE, IGNORE, IGNORE, IGNORE], False),
    ],
)
def test_a_crop_is_varied_where_no_class_prevails(pixels: list[int], expected: bool) -> None:
    assert varied(np.array([pixels], np.uint8), 0.75) == expected
