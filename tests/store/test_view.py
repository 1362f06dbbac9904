"""The store opens with xarray and dask, with and without code of ours, without a warning."""

from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from store.errors import StoreMissingError
from store.spec import LEVELS as ALL_LEVELS
from store.view import open_dataset
from store.write import StoreWriter
from tests.store.worlds import LEVELS, SIZES_PX, SPEC, features, features_of, images, write

IMAGES = images(7)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_xarray_opens_a_store_without_our_code(store: Path) -> None:
    dataset = xr.open_zarr(store, consolidated=False)
    assert set(dataset.data_vars) == set(ALL_LEVELS)
    assert dataset["stride8"].dims == ("image", "channel_stride8", "y_stride8", "x_stride8")
    for level in ALL_LEVELS:
        np.testing.assert_array_equal(dataset[level].values, expected(level))
    assert list(dataset["image"].values) == [image.image_id for image in IMAGES]
    assert list(dataset["height_px"].values) == [SIZES_PX[n % 3][0] for n in range(7)]
    assert list(dataset["width_px"].values) == [SIZES_PX[n % 3][1] for n in range(7)]
    assert dataset["live"].values.all()


def test_dask_opens_a_level_without_our_code(store: Path) -> None:
    array = da.from_zarr(str(store), component="stride16")
    np.testing.assert_array_equal(array.compute(), expected("stride16"))


def test_attributes_explain_what_is_in_a_level(store: Path) -> None:
    dataset = xr.open_zarr(store, consolidated=False)
    attributes = dataset["stride16"].attrs
    assert attributes["stride_px"] == 16
    assert attributes["teacher"] == {"name": "tiny", "weights": "ab12"}
    assert attributes["fingerprint"] == SPEC.level_fingerprint("stride16")
    assert dataset.attrs["fingerprint"] == SPEC.fingerprint
    assert dataset.attrs["provenance"] == SPEC.provenance
    assert dataset.attrs["format"] == 2


def test_the_data_set_is_lazy_in_chunks_of_whole_shards(store: Path) -> None:
    dataset = open_dataset(store)
    for level in ALL_LEVELS:
        chunks = dataset[level].chunks
        assert chunks is not None
        assert chunks[0] == (3, 3, 1)
        assert [len(along) for along in chunks[1:]] == [1, 1, 1]
        assert dataset[level].dtype == np.float16


def test_an_image_is_selected_by_its_id(store: Path) -> None:
    chosen = open_dataset(store)["stride8"].sel(image="source/train/003")
    np.testing.assert_array_equal(chosen.values, expected("stride8")[3])


def test_a_lazy_mean_over_images_equals_numpy(store: Path) -> None:
    mean = open_dataset(store)["stride8"].mean("image", dtype="float32")
    assert mean.chunks is not None
    reference = np.nanmean(expected("stride8").astype(np.float64), axis=0)
    np.testing.assert_allclose(mean.values, reference, rtol=1e-5)


def test_an_incomplete_store_says_how_many_images_it_lacks(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, SPEC, IMAGES, LEVELS) as writer:
        for task in writer.pending()[:2]:
            writer.write_shard(task, features_of(task))
    store = tmp_path / SPEC.relative_path
    with pytest.warns(UserWarning, match="1 of 7 images are not embedded yet") as told:
        open_dataset(store)
    assert [str(one.filename) for one in told] == [__file__]
    (store / "ledger/stride8/000000.json").unlink()
    with pytest.warns(UserWarning, match="4 of 7 images are not embedded yet"):
        open_dataset(store)


def test_skipped_and_removed_images_are_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path, IMAGES, skipped={IMAGES[1].image_id: "cannot be read"})
    write(tmp_path, IMAGES[:6], skipped={IMAGES[1].image_id: "cannot be read"})
    open_dataset(tmp_path / SPEC.relative_path)


def test_opening_reads_no_shard(tmp_path: Path) -> None:
    write(tmp_path, IMAGES)
    store = tmp_path / SPEC.relative_path
    for shard in store.glob("stride*/c.*"):
        shard.write_bytes(b"not a shard")
    open_dataset(store)


def test_tombstones_are_visible(tmp_path: Path) -> None:
    write(tmp_path, IMAGES)
    write(tmp_path, IMAGES[:2] + IMAGES[3:])
    dataset = open_dataset(tmp_path / SPEC.relative_path)
    assert list(dataset["live"].values) == [True, True, False, True, True, True, True]


def test_no_store_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError, match="run `ssr embed`"):
        open_dataset(tmp_path / "nothing")
