import json
import multiprocessing
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.errors import StoreError, StoreIncompleteError, StoreMismatchError
from store.read import FeatureReader
from store.write import StoreWriter
from tests.store.worlds import LEVELS, SPEC, changed, features, flip_a_bit, images, window_of, write

IMAGES = images(7)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    url = tmp_path_factory.mktemp("features")
    write(url, IMAGES)
    return url / SPEC.relative_path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write(tmp_path, IMAGES)
    return tmp_path / SPEC.relative_path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_window_is_a_slice_of_what_was_written(shared_store: Path, data: st.DataObject) -> None:
    image = data.draw(st.sampled_from(IMAGES))
    level = data.draw(st.sampled_from(LEVELS))
    expected = features(image, level).astype(np.float16)
    h = data.draw(st.integers(1, expected.shape[1]))
    w = data.draw(st.integers(1, expected.shape[2]))
    y = data.draw(st.integers(0, expected.shape[1] - h))
    x = data.draw(st.integers(0, expected.shape[2] - w))
    window = FeatureReader(shared_store).window(image.image_id, level, y, x, h, w)
    assert window.dtype == np.float16
    np.testing.assert_array_equal(window, expected[:, y : y + h, x : x + w])


@pytest.mark.parametrize(("y", "x", "h", "w"), [(-1, 0, 2, 2), (11, 23, 1, 2), (0, 0, 0, 1)])
def test_a_window_outside_the_valid_region_is_refused_with_both(
    shared_store: Path, y: int, x: int, h: int, w: int
) -> None:
    reader = FeatureReader(shared_store)
    assert reader.size_tok("source/train/001", "stride8") == (12, 24)  # of a grid of 20 x 24
    with pytest.raises(StoreError, match=rf"y={y}:{y + h}, x={x}:{x + w} leaves the 12x24"):
        reader.window("source/train/001", "stride8", y, x, h, w)


def test_a_reader_goes_to_other_processes_as_a_path(shared_store: Path) -> None:
    reader = FeatureReader(shared_store)
    reader.window("source/train/000", "stride8", 0, 0, 4, 4)
    assert len(pickle.dumps(reader)) < 300
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        window = pool.apply(reader.window, ("source/train/000", "stride8", 1, 2, 3, 4))
    expected = features(IMAGES[0], "stride8").astype(np.float16)[:, 1:4, 2:6]
    np.testing.assert_array_equal(window, expected)


def test_features_of_an_older_image_are_not_served(store: Path) -> None:
    wanted = [changed(IMAGES[0]), *IMAGES[1:]]
    with StoreWriter(store.parents[1], SPEC, wanted, LEVELS):
        pass  # the writer ends before it embeds
    reader = FeatureReader(store)
    with pytest.raises(StoreIncompleteError, match="out of date"):
        reader.window(IMAGES[0].image_id, "stride8", 0, 0, 1, 1)
    reader.window(IMAGES[1].image_id, "stride8", 0, 0, 1, 1)


def read_all_of_shard(store: Path, shard: int) -> None:
    for image in IMAGES[shard * 3 : shard * 3 + 3]:
        window_of(FeatureReader(store), image, "stride8")


@pytest.mark.parametrize("seed", range(4))
def test_one_flipped_bit_anywhere_in_a_shard_is_noticed(store: Path, seed: int) -> None:
    flip_a_bit(store, "stride8/c.0.0.0.0", random.Random(seed).randrange(2**40))
    with pytest.raises(StoreError, match=r"source/train/00. .*c\.0\.0\.0\.0 .*--repair"):
        read_all_of_shard(store, 0)
    read_all_of_shard(store, 1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 3, "has format 3"),
        ("codec", "bitround-7", "has format 2 and codec bitround-7"),
        ("fingerprint", "0" * 64, "say fingerprint 00000000 but"),
    ],
)
def test_a_store_of_another_format_or_fingerprint_is_a_mismatch(
    store: Path, key: str, value: object, message: str
) -> None:
    root = json.loads((store / "zarr.json").read_text())
    root["attributes"][key] = value
    (store / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreMismatchError, match=message) as caught:
        _ = FeatureReader(store).header
    assert "move" in str(caught.value)


def test_a_store_that_lacks_what_training_reads_is_refused(store: Path) -> None:
    contents = {image.image_id: image.content for image in IMAGES}
    sound: dict[str, Any] = {"levels": LEVELS, "images": contents, "fingerprint": SPEC.fingerprint}

    def check(**changes: object) -> None:
        FeatureReader(store).check(**{**sound, **changes})

    check()
    with pytest.raises(StoreMismatchError, match="expected 00000000"):
        check(fingerprint="0" * 64)
    with pytest.raises(StoreIncompleteError, match="no stride32"):
        check(levels=("stride32",))
    with pytest.raises(StoreIncompleteError, match="no image 'new'"):
        check(images=contents | {"new": "content"})
    with pytest.raises(StoreMismatchError, match=r"1 images changed .* source/train/003"):
        check(images=contents | {"source/train/003": "other"})
    (store / "stride16" / "c.1.0.0.0").unlink()
    check(levels=("stride8",))
    with pytest.raises(StoreIncompleteError, match="shard 1 of stride16"):
        check()


def test_reading_imports_neither_zarr_nor_xarray_nor_dask_nor_torch() -> None:
    code = "import store.read, store.index, sys; sys.stdout.write(' '.join(sys.modules))"
    command = [sys.executable, "-c", code]
    repository = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=repository, capture_output=True, check=True, text=True)
    assert not {"zarr", "xarray", "dask", "torch"} & set(done.stdout.split())
