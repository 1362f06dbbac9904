"""The store as a lazy xarray data set, for looking and for dask."""

from pathlib import Path

import xarray as xr

from store.grid import LevelGrid
from store.header import read_header


def open_dataset(path: Path) -> xr.Dataset:
    """Open a store lazily, in chunks that are whole shards.

    One variable per level, float16 `(image, channel, y_<level>, x_<level>)`, NaN where there is no
    feature; xarray wants one size per dimension name, hence the level in it. Coordinates: `image`
    (the ids, so `.sel(image=...)` works), `height_px`, `width_px`, `live`. float16 reductions
    overflow: reduce with `dtype="float32"`.

    Raises:
        StoreError: There is no store, or its metadata is not sound.
    """
    header = read_header(path)
    dataset: xr.Dataset = xr.open_zarr(path, consolidated=False, chunks=None)  # lazy, not dask
    for coordinate in dataset.coords.values():
        coordinate.load()
    chunked = {}
    for level in header.levels:
        variable = dataset[level].variable
        shard_shape = LevelGrid.of(header.spec, level).shard_shape
        chunked[level] = variable.chunk(dict(zip(variable.dims, shard_shape, strict=True)))
    return dataset.assign(chunked)
