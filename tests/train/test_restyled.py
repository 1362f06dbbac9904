"""Training shows restyled images at a rate, and validates on them, and changes nothing else."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from stages.student.student import build_student
from stages.train.crops import TrainingCrops
from stages.train.validate import Validation, choose_validation
from store.errors import ConfigError, DataError, StoreError
from tests.restyle.test_stage import MIXER, config, restyle
from tests.train.example import train_config
from tests.train.test_crops import locate
from tests.train.world import World, assert_same, features, silent

SAMPLES: Final = range(12)
STUDENT: Final = build_student(train_config().student, num_classes=11, seed=3)


@pytest.fixture(scope="module")
def restyled(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Each image of the source in the styles of two of the target's."""
    mine = world.copy(tmp_path_factory.mktemp("restyled") / "mine")
    restyle(mine, config())
    return mine


@pytest.fixture(scope="module")
def embedded(restyled: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same, with features of these images, too."""
    mine = restyled.copy(tmp_path_factory.mktemp("embedded") / "mine")
    mine.embed(domains=("source", "target", "restyled"))
    return mine


def crops(world: World, probability: float | None, features: str = "clean") -> TrainingCrops:
    section = None if probability is None else {"probability": probability, "features": features}
    return world.crops(train_config(restyled=section))


def others(sample: Any) -> dict[str, Any]:  # noqa: ANN401 - a TypedDict
    return {key: value for key, value in sample.items() if key != "source_image"}


def test_a_restyled_crop_changes_the_image_of_a_sample_and_nothing_else(restyled: World) -> None:
    off, never, half, always = (crops(restyled, p) for p in (None, 0.0, 0.5, 1.0))
    shown = []
    for index in SAMPLES:
        assert_same(never[index], off[index])
        for one in (half, always):
            assert_same(others(one[index]), others(off[index]))
        assert not np.array_equal(always[index]["source_image"], off[index]["source_image"])
        images = [one[index]["source_image"] for one in (off, always)]
        (place,) = (k for k in (0, 1) if np.array_equal(images[k], half[index]["source_image"]))
        shown.append(place)
    assert 2 < sum(shown) < len(SAMPLES) - 2


def test_a_restyled_crop_is_cut_where_the_image_itself_would_be(restyled: World) -> None:
    images = [crops(restyled, 1.0)[index]["source_image"] for index in SAMPLES]
    shown = [locate(restyled, "restyled", image, 32).record for image in images]
    assert {record.image_id[-1] for record in shown} == {"0", "1"}  # both draws


def test_features_of_a_crop_are_those_of_the_image_that_it_shows(embedded: World) -> None:
    off, half, always = (crops(embedded, p, "restyled") for p in (None, 0.5, 1.0))
    other = 0
    ways: set[bool] = set()
    for index in SAMPLES:
        clean, sample, mixed = off[index], always[index], half[index]
        place = locate(embedded, "restyled", sample["source_image"], 32)
        wanted = place.cut(features(place.record, "stride8"), 8)
        np.testing.assert_array_equal(sample["source_features"]["stride8"], wanted)
        assert not np.array_equal(wanted, clean["source_features"]["stride8"])
        np.testing.assert_array_equal(sample["source_label"], clean["source_label"])
        assert_same(sample["target_features"], clean["target_features"])
        is_clean = np.array_equal(mixed["source_image"], clean["source_image"])
        assert_same(mixed, clean if is_clean else sample)
        other, ways = other + is_clean, ways | {place.mirrored}
    assert 0 < other < len(SAMPLES)
    assert ways == {False, True}


def test_training_on_features_of_restyled_images_resumes_bit_for_bit(
    embedded: World, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"restyled": {"probability": 0.5, "features": "restyled"}}
    embedded.resumes(train_config(**settings), tmp_path, stop=3, at=3)
    settings["restyled"]["features"] = "clean"
    with pytest.raises(ConfigError, match="holds another run"):
        embedded.run(tmp_path / "through", **settings)


def test_features_that_are_not_of_these_restyled_images_are_refused(
    restyled: World, embedded: World, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=r"no features of restyled, .*add it to embed\.domains"):
        crops(restyled, 1.0, "restyled")
    mine = embedded.copy(tmp_path / "mine")
    restyle(mine, config(seed=1))
    crops(mine, 1.0, "clean")
    with pytest.raises(StoreError, match=r"images changed since they were embedded.*`ssr embed`$"):
        crops(mine, 1.0, "restyled")


def test_no_strength_trains_to_the_same_weights_and_a_mixer_to_others(
    restyled: World, tmp_path: Path
) -> None:
    same = restyled.copy(tmp_path / "same")
    restyle(same, config(mixer={**MIXER, "strength": 0.0}))
    on: dict[str, Any] = {"restyled": {"probability": 1.0, "features": "clean"}, "iterations": 2}
    same.run(tmp_path / "off", iterations=2)
    same.run(tmp_path / "none", **on)
    restyled.run(tmp_path / "other", **on)
    off, none, other = (
        (tmp_path / name / "student" / "model.safetensors").read_bytes()
        for name in ("off", "none", "other")
    )
    assert off == none != other
    with pytest.raises(ConfigError, match="holds another run"):  # of other restyled images
        same.run(tmp_path / "other", **on)
    with pytest.raises(ConfigError, match="holds another run"):  # whose best is of other scores
        same.run(tmp_path / "off", iterations=2, validate_on="source")
    restyle(same, None)
    with pytest.raises(DataError, match="holds no restyled images: run `ssr restyle`"):
        same.run(tmp_path / "new", **on)


def test_a_damaged_restyled_image_ends_training_with_its_cure(
    restyled: World, tmp_path: Path
) -> None:
    mine = restyled.copy(tmp_path / "mine")
    for path in (mine.folder / "restyled").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"png: is missing or not what was made: run `ssr restyle`"):
        mine.run(tmp_path / "run", restyled={"probability": 1.0, "features": "clean"})
    with pytest.raises(DataError, match=r"png: is missing or not what was made: run `ssr restyle`"):
        chosen(mine, "proxy").measure(STUDENT, None)


def chosen(world: World, on: str) -> Validation:
    settings = train_config(regularizer={"on": []}, validate_on=on, validate_every=1)
    validation, _ = choose_validation(settings, world.manifest, world.workspace)
    assert validation is not None
    return validation


def test_the_proxy_is_the_restyled_source_with_its_own_labels(
    restyled: World, tmp_path: Path
) -> None:
    target, source, proxy = (chosen(restyled, on) for on in ("target", "source", "proxy"))
    assert [v.on for v in (target, source, proxy)] == [
        "1 images of target/val",
        "1 images of source/val",
        "1 images of source/val, restyled",
    ]
    assert [v.sees_target_labels for v in (target, source, proxy)] == [True, False, False]
    plain = source.measure(STUDENT, None)
    assert proxy.measure(STUDENT, None) != plain
    same = restyled.copy(tmp_path / "same")
    restyle(same, config(mixer={**MIXER, "strength": 0.0}))
    assert chosen(same, "proxy").measure(STUDENT, None) == pytest.approx(plain, abs=1e-9)


def test_a_proxy_that_is_not_there_is_refused(restyled: World, tmp_path: Path) -> None:
    mine = restyled.copy(tmp_path / "mine")
    restyle(mine, config(splits=["train"]), silent)
    with pytest.raises(DataError, match="no image of source/val is restyled: add val"):
        chosen(mine, "proxy")
    mine.workspace.restyled.unlink()
    with pytest.raises(DataError, match="there is no manifest: run `ssr restyle`"):
        chosen(mine, "proxy")
