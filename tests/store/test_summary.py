"""A summary says what is in a store; it opens with xarray and dask, without code of ours, too."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from store.spec import LEVELS as ALL_LEVELS
from store.summary import inspect, open_dataset
from store.write import StoreWriter
from tests.store.worlds import LEVELS, SIZES_PX, SPEC, features, features_of, images, write

IMAGES = images(7)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write(tmp_path, IMAGES)
    return tmp_path / SPEC.relative_path


def tokens(level: str) -> np.ndarray:
    """All stored tokens (C, N) of a level."""
    blocks = [features(image, level).astype(np.float16).reshape(4, -1) for image in IMAGES]
    return np.concatenate(blocks, axis=1).astype(np.float64)


def test_a_summary_says_what_is_in_a_store(store: Path) -> None:
    summary = inspect(store)
    assert (summary.domain, summary.images, summary.removed_images) == ("source", 7, 0)
    assert summary.complete
    assert (summary.fingerprint, summary.provenance) == (SPEC.fingerprint, SPEC.provenance)
    level = summary.levels["stride8"]
    assert level.shape == (7, 4, 20, 24)
    assert (level.shards_done, level.shards) == (3, 3)
    assert level.size_bytes == sum(path.stat().st_size for path in store.glob("stride8/c.*"))
    for name in LEVELS:
        found, everything = summary.levels[name].statistics, tokens(name)
        assert found is not None
        assert found.count == everything.shape[1]
        np.testing.assert_allclose(found.mean, everything.mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(found.std, everything.std(axis=1), rtol=1e-9)
        np.testing.assert_array_equal(found.min, everything.min(axis=1))
        np.testing.assert_array_equal(found.max, everything.max(axis=1))


def test_an_interrupted_store_is_not_complete(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, SPEC, IMAGES, ALL_LEVELS) as writer:
        task = writer.pending()[1]
        writer.write_shard(task, features_of(task))
        path = writer.path
    summary = inspect(path)
    assert not summary.complete
    assert summary.levels["stride32"].shards_done == 1
    assert summary.levels["stride32"].shards == 3
    found = summary.levels["stride8"].statistics
    assert found is not None
    assert found.count == sum(features(i, "stride8")[0].size for i in IMAGES[3:6])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    url = tmp_path_factory.mktemp("features")
    write(url, IMAGES, levels=ALL_LEVELS)
    return url / SPEC.relative_path


def expected(level: str) -> np.ndarray:
    """All features as one array, NaN where there is none."""
    stride = int(level.removeprefix("stride"))
    array = np.full((7, 4, 160 // stride, 192 // stride), np.nan, np.float16)
    for row, image in enumerate(IMAGES):
        block = features(image, level)
        array[row, :, : block.shape[1], : block.shape[2]] = block
    return array


def test_xarray_opens_a_store_with_and_without_our_code(shown: Path) -> None:
    theirs, dataset = xr.open_zarr(shown, consolidated=False), open_dataset(shown)
    assert set(dataset.data_vars) == set(ALL_LEVELS)
    assert dataset["stride8"].dims == ("image", "channel_stride8", "y_stride8", "x_stride8")
    for level in ALL_LEVELS:
        np.testing.assert_array_equal(theirs[level].values, expected(level))
        chunks = dataset[level].chunks
        assert chunks is not None
        assert chunks[0] == (3, 3, 1)  # whole shards
        assert [len(along) for along in chunks[1:]] == [1, 1, 1]
    chosen = dataset["stride8"].sel(image="source/train/003")
    np.testing.assert_array_equal(chosen.values, expected("stride8")[3])
    assert list(dataset["height_px"].values) == [SIZES_PX[n % 3][0] for n in range(7)]
    assert list(dataset["width_px"].values) == [SIZES_PX[n % 3][1] for n in range(7)]
    assert dataset["live"].values.all()
    assert dataset.attrs["provenance"] == SPEC.provenance
    xr.testing.assert_equal(dataset, theirs)
