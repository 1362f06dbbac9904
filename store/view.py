"""The store as a lazy xarray data set, for looking and for dask."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from zarr.storage import FsspecStore

from store.codec import MISSING_CODE
from store.grid import LevelGrid
from store.header import Header, read_header
from store.url import S3, Url, files_at


def open_dataset(path: Url) -> xr.Dataset:
    """Open a store lazily, in chunks that are whole shards.

    One variable per level, `(image, channel, y_<level>, x_<level>)`, NaN where there is no feature;
    xarray wants one size per dimension name, hence the level in it. float16, or float32 where the
    codec is one of 8 bits; float16 reductions overflow: reduce with `dtype="float32"`. Coordinates:
    `image` (the ids, so `.sel(image=...)` works), `height_px`, `width_px`, `live`, `scale_<level>`.

    Raises:
        StoreError: There is no store, or its metadata is not sound.
    """
    return open_dataset_of(read_header(files_at(path)))


def open_dataset_of(header: Header) -> xr.Dataset:
    """Open the store of a header as `open_dataset` does."""
    url = header.files.url
    store = FsspecStore.from_url(url, read_only=True) if url.startswith(S3) else url
    dataset: xr.Dataset = xr.open_zarr(store, consolidated=False, chunks=None)  # lazy, not dask
    for coordinate in dataset.coords.values():
        coordinate.load()
    chunked = {}
    for level in header.levels:
        variable = dataset[level].variable
        shard_shape = LevelGrid.of(header.spec, level).shard_shape
        chunks = variable.chunk(dict(zip(variable.dims, shard_shape, strict=True)))
        scale = header.scales.get(level)
        if scale is not None:
            numbers = chunks.data.map_blocks(_decode, scale=scale, dtype=np.float32)
            chunks = chunks.copy(deep=False, data=numbers)
        chunked[level] = chunks
    return dataset.assign(chunked)


def _decode(codes: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn a block of codes (image, C, y, x) into numbers, NaN where there are none."""
    numbers: NDArray[Any] = np.multiply(codes, scale[:, None, None], dtype=np.float32)
    numbers[codes == MISSING_CODE] = np.nan
    return numbers
