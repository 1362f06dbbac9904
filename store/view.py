"""The store as a lazy xarray data set, for looking and for dask."""

import warnings
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from zarr.errors import ZarrUserWarning
from zarr.storage import FsspecStore

from store.codec import MISSING_CODE
from store.files import S3, Url, files_at, one_line_for_reads
from store.grid import LevelGrid
from store.header import Header, read_header
from store.layout import check_layout


def open_dataset(path: Url) -> xr.Dataset:
    """Open a store lazily, in chunks that are whole shards.

    One variable per level, `(image, channel, y_<level>, x_<level>)`, NaN where there is no feature;
    xarray wants one size per dimension name, hence the level in it. float16, or float32 where the
    codec is one of 8 bits; float16 reductions overflow: reduce with `dtype="float32"`. Coordinates:
    `image` (the ids, so `.sel(image=...)` works), `height_px`, `width_px`, `live`, `scale_<level>`.

    Warns where images are not embedded (yet): they are NaN.

    Raises:
        StoreError: There is no store, or its metadata is not sound.
    """
    header = read_header(files_at(path))
    missing, live = _not_embedded(header), sum(slot.live for slot in header.slots)
    if missing:
        warnings.warn(
            f"{missing} of {live} images are not embedded yet in {header.files.url} and read as "
            "NaN: `ssr embed` goes on with them",
            stacklevel=2,
        )
    return open_dataset_of(header)


def _not_embedded(header: Header) -> int:
    """Count the images that lack a level, those aside that could not be read."""
    missing = set()
    with one_line_for_reads(header.files.url):
        for level in header.levels:
            done = {image for images, _ in header.recorded(level) for image in images}
            missing |= {slot.image for slot in header.slots if slot.live} - done
    return len(missing)


def open_dataset_of(header: Header) -> xr.Dataset:
    """Open the store of a header as `open_dataset` does, without a look at what is done."""
    url = header.files.url
    with one_line_for_reads(url):
        check_layout(header)
    store = FsspecStore.from_url(url, read_only=True) if url.startswith(S3) else url
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Object at .* is not recognized", ZarrUserWarning)
        dataset: xr.Dataset = xr.open_zarr(store, consolidated=False, chunks=None)  # lazy, not dask
    ours = {name.partition("/")[0] for name in header.digests}
    dataset = dataset.drop_vars([name for name in dataset.variables if name not in ours])
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
