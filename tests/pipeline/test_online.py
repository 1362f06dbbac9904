"""`ssr verify --online`: the differences to official SSR, each measured apart."""

import json
import shutil
from pathlib import Path

import pytest

from store.read import FeatureReader
from tests.pipeline.mistakes import assert_refused
from tests.pipeline.workplace import (
    SMALLEST,
    change_params,
    demand,
    enter_copy,
    made,
    the_store,
)

SIDES = [f"{domain}.{side}_px" for domain in ("source", "target") for side in ("height", "width")]
SQUARE = {
    **{f"prepare.{side}": 128 for side in SIDES},
    "prepare.pad_to_px": 128,
    "train.crop_px": 128,
}
"""Crop, tile and image are the same 128 px at stride 8."""

Rows = dict[tuple[str, str], dict[str, float]]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after prepare and embed, where a crop is a whole tile."""
    params = {**SMALLEST, **SQUARE, "embed.levels": ["stride8", "stride16"]}
    return made(tmp_path_factory.mktemp("squares"), params, "prepare", "embed")


@pytest.fixture
def there(squares: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(squares)
    return squares


def online(domain: str, *options: str) -> Rows:
    demand("verify", str(the_store(domain)), "--online", "3", "--json", "online.json", *options)
    report = json.loads(Path("online.json").read_text())
    return {(row["kind"], row["level"]): row for row in report["rows"]}


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("domain", ["source", "target"])
def test_where_crop_and_tile_coincide_the_crop_is_the_same_to_float16(domain: str) -> None:
    rows = online(domain)
    for level in ("stride8", "stride16"):
        assert rows["crop", level]["cosine"] > 0.999999
        assert rows["crop", level]["relative_error"] < 5e-4
        assert rows["flip", level]["cosine"] < 0.999
    assert rows["crop", "stride8"]["crops"] == 3


def test_stored_flips_and_components_are_those_of_the_teacher_and_repaired_if_damaged(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter_copy(squares, tmp_path, monkeypatch)
    shutil.rmtree("data/features")
    change_params(Path(), {"embed.flips": ["none", "horizontal"], "store.channels": 48})
    demand("embed")
    rows = online("source")
    for level in ("stride8", "stride16"):
        assert rows["stored flip", level]["relative_error"] < 1e-3
        assert rows["stored flip", level]["cosine"] > 0.99999 > rows["flip", level]["cosine"]
        assert rows["crop", level]["cosine"] > 0.99999
    store = the_store("source")
    assert "48 principal components of 64 channels" in demand("inspect", str(store))
    (store / "stride8_flipped/c.0.0.0.0").write_bytes(b"damaged")
    change_params(Path(), {"embed.flips": ["none"]})
    demand("verify", str(store), "--repair")
    assert "every file is what was written" in demand("verify", str(store))


def test_both_domains_have_the_same_components(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter_copy(squares, tmp_path, monkeypatch)
    shutil.rmtree("data/features")
    change_params(Path(), {"store.channels": 8})
    target_alone = ("-S", "embed.domains=[target]", "-S", "train.regularizer.on=[]")
    demand("embed", *target_alone)
    shutil.move("data/features", "away")
    demand("embed")
    bases = [FeatureReader(the_store(domain)).header.bases for domain in ("source", "target")]
    assert len({basis["stride8"].digest for basis in bases}) == 1
    shutil.rmtree("data/features/target")
    shutil.move("away/target", "data/features/target")  # of components of its own
    demand("embed")
    assert_refused("train", "holds other principal components: move one of the stores away")


@pytest.mark.usefixtures("there")
def test_features_of_the_wrong_image_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.train.crops import TrainingCrops

    features = TrainingCrops._features

    def wrong(self, record, view, levels):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        records = self._labelled if record.domain == "source" else self._target
        another = records[(records.index(record) + 1) % len(records)]
        return features(self, another, view, levels)

    monkeypatch.setattr(TrainingCrops, "_features", wrong)
    assert online("source")["crop", "stride8"]["cosine"] < 0.9


@pytest.mark.usefixtures("there")
def test_without_self_training_the_target_has_no_crops() -> None:
    alone = ("-S", "train.self_training=null", "-S", "train.regularizer.on=[source]")
    assert {kind for kind, _ in online("source", *alone)} == {"crop", "flip"}
    target = f"verify {the_store('target')} --online 1 {' '.join(alone)}"
    assert_refused(target, "draws no crops of the target")


@pytest.mark.usefixtures("there")
def test_another_teacher_than_the_stores_is_refused() -> None:
    command = f"verify {the_store('source')} --online 1 -S embed.teacher.seed=9"
    assert_refused(command, "was made with another teacher")
