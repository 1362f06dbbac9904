"""A summary says what is in a store; it opens with xarray and dask, without code of ours, too."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from store.spec import LEVELS
from store.summary import inspect, open_dataset
from store.write import StoreWriter
from tests.store.worlds import SIZES_PX, SPEC, features, features_of, images, write

IMAGES = images(7)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    url = tmp_path_factory.mktemp("features")
    write(url, IMAGES, levels=LEVELS)
    return url / SPEC.relative_path


def test_a_summary_says_what_is_in_a_store(store: Path) -> None:
    summary = inspect(store)
    assert (summary.domain, summary.images, summary.removed_images) == ("source", 7, 0)
    assert summary.complete
    assert (summary.fingerprint, summary.provenance) == (SPEC.fingerprint, SPEC.provenance)
    level = summary.levels["stride8"]
    assert (level.shape, level.shards_done, level.shards) == ((7, 4, 20, 24), 3, 3)
    assert level.size_bytes == sum(path.stat().st_size for path in store.glob("stride8/c.*"))
    for name in LEVELS:
        found, stored = summary.levels[name].statistics, expected(name).astype(np.float64)
        assert found is not None
        assert found.count == np.isfinite(stored[:, 0]).sum()
        np.testing.assert_allclose(found.mean, np.nanmean(stored, axis=(0, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose(found.std, np.nanstd(stored, axis=(0, 2, 3)), rtol=1e-9)
        np.testing.assert_array_equal(found.min, np.nanmin(stored, axis=(0, 2, 3)))
        np.testing.assert_array_equal(found.max, np.nanmax(stored, axis=(0, 2, 3)))


def test_an_interrupted_store_is_not_complete_and_its_images_read_as_nan(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, SPEC, IMAGES, LEVELS) as writer:
        task = writer.pending()[1]
        writer.write_shard(task, features_of(task))
    summary = inspect(writer.path)
    assert not summary.complete
    assert (summary.levels["stride32"].shards_done, summary.levels["stride32"].shards) == (1, 3)
    with pytest.warns(UserWarning, match="4 of 7 images are not embedded yet"):
        shown = open_dataset(writer.path)["stride8"].values
    np.testing.assert_array_equal(shown[3:6], expected("stride8")[3:6])
    assert np.isnan(shown[[0, 1, 2, 6]]).all()


def expected(level: str) -> np.ndarray:
    """All features as one array, NaN where there is none."""
    stride = SPEC.level(level).stride_px
    array = np.full((7, 4, 160 // stride, 192 // stride), np.nan, np.float16)
    for row, image in enumerate(IMAGES):
        block = features(image, level)
        array[row, :, : block.shape[1], : block.shape[2]] = block
    return array


def test_xarray_opens_a_store_with_and_without_our_code(store: Path) -> None:
    theirs, dataset = xr.open_zarr(store, consolidated=False), open_dataset(store)
    assert set(dataset.data_vars) == set(LEVELS)
    assert dataset["stride8"].dims == ("image", "channel_stride8", "y_stride8", "x_stride8")
    for level in LEVELS:
        np.testing.assert_array_equal(theirs[level].values, expected(level))
        chunks = dataset[level].chunks
        assert chunks is not None
        assert chunks[0] == (3, 3, 1)  # whole shards
        assert [len(along) for along in chunks[1:]] == [1, 1, 1]
    chosen = dataset["stride8"].sel(image="source/train/003")
    np.testing.assert_array_equal(chosen.values, expected("stride8")[3])
    for axis, name in enumerate(("height_px", "width_px")):
        assert list(dataset[name].values) == [SIZES_PX[n % 3][axis] for n in range(7)]
    assert dataset["live"].values.all()
    assert dataset.attrs["provenance"] == SPEC.provenance
    xr.testing.assert_equal(dataset, theirs)
