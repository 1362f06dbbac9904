"""Summary of a store (teacher, size, statistics), and all of it as a lazy xarray data set."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from pydantic import JsonValue
from zarr.storage import FsspecStore, LocalStore

from store.codec import MISSING_CODE
from store.files import S3, Url, files_at, one_line_for_reads
from store.header import ROOT_FILE, Header, damaged, read_header, root_attributes
from store.ledger import ChannelStatistics
from store.spec import upright


@dataclass(frozen=True)
class LevelSummary:
    """One level of a store.

    Attributes:
        shape: (image, channel, y, x) of the array.
        shards: Those that hold an image of the data set.
        statistics: Per channel over all stored tokens, those of removed images included.
        saturated: Stored numbers that the scale of an 8 bit codec was too small for.
        projection: Of stored principal components: channels of the teacher, and the share of a
            sample's variance that is kept.
    """

    shape: tuple[int, int, int, int]
    shards_done: int
    shards: int
    size_bytes: int
    statistics: ChannelStatistics | None
    saturated: int
    projection: tuple[int, float] | None

    @property
    def numbers(self) -> int:
        """Numbers that are stored."""
        return 0 if self.statistics is None else self.statistics.count * self.shape[1]


@dataclass(frozen=True)
class StoreSummary:
    """One store; `removed_images` are its tombstones, and its levels come finest first."""

    path: str
    domain: str
    fingerprint: str
    codec: str
    provenance: Mapping[str, JsonValue]
    images: int
    removed_images: int
    levels: Mapping[str, LevelSummary]

    @property
    def complete(self) -> bool:
        """Whether every image of the data set is there at every level."""
        return all(level.shards_done == level.shards for level in self.levels.values())


def inspect(path: Url) -> StoreSummary:
    """Summarise a store from its ledger; StoreError where there is none, or it is not sound."""
    header = read_header(files_at(path))
    levels = {level: _summarise(header, level) for level in header.levels}
    images = len(header.live)
    return StoreSummary(
        path=header.files.url,
        domain=header.spec.domain,
        fingerprint=header.spec.fingerprint,
        codec=header.spec.codec,
        provenance=header.spec.provenance,
        images=images,
        removed_images=len(header.slots) - images,
        levels=levels,
    )


def _summarise(header: Header, level: str) -> LevelSummary:
    grid, basis = header.grids[level], header.bases.get(upright(level))
    wanted = {shard: header.wanted(shard) for shard in header.shards}
    entries = [e for shard, images in wanted.items() if (e := header.done(level, shard, images))]
    return LevelSummary(
        shape=(len(header.slots), grid.channels, *grid.size_tok),
        shards_done=sum(any(wanted[entry.shard]) for entry in entries),
        shards=sum(map(any, wanted.values())),
        size_bytes=sum(entry.bytes for entry in entries),
        statistics=header.statistics(level, (entry.shard for entry in entries)),
        saturated=sum(entry.saturated or 0 for entry in entries),
        projection=None if basis is None else (len(basis.mean), float(basis.explained.sum())),
    )


def open_dataset(path: Url) -> xr.Dataset:
    """Open a store lazily, in chunks that are whole shards.

    One variable per level, `(image, channel, y_<level>, x_<level>)`, NaN where there is no feature
    (yet: a warning counts those images); xarray wants one size per dimension name, hence the
    level in it. float16, or float32 where the codec is one of 8 bits; float16 reductions overflow:
    reduce with `dtype="float32"`. Coordinates: `image` (the ids, so `.sel(image=...)` works),
    `height_px`, `width_px`, `live`, `scale_<level>`; of principal components also `mean_<level>`
    (teacher_channel_<level>), `basis_<level>` (channel_<level>, teacher_channel_<level>) and
    `explained_<level>` (channel_<level>), where a stored token is basis @ (token - mean).

    Raises:
        StoreError: There is no store, or its metadata is not sound.
    """
    header = read_header(files_at(path))
    url, slots, images = header.files.url, header.slots, header.live
    embedded = set(images)
    for level in header.levels:
        entries = (header.done(level, shard) for shard in header.shards)
        embedded &= {image for entry in entries if entry for image in entry.images if image}
    if missing := len(images) - len(embedded):
        warnings.warn(
            f"{missing} of {len(images)} images are not embedded yet in {url} and read as NaN: "
            "`ssr embed` goes on with them",
            stacklevel=2,
        )
    # zarr would split a local folder as a text at `::`
    place = FsspecStore.from_url(url) if url.startswith(S3) else LocalStore(url)
    sizes_px = np.array([slot.image.working_size_px for slot in slots], np.int32)
    coordinates: dict[str, Any] = {
        "image": [slot.image.image_id for slot in slots],
        "height_px": ("image", sizes_px[:, 0]),
        "width_px": ("image", sizes_px[:, 1]),
        "live": ("image", [slot.live for slot in slots]),
    }
    variables: dict[str, Any] = {}
    for level in header.levels:
        variables[level] = array = _open_level(header, level, place)
        if level in header.scales:
            coordinates[f"scale_{level}"] = (array.dims[1], header.scales[level])
        if level in header.bases:
            channel, teacher = array.dims[1], f"teacher_channel_{level}"
            dims = (teacher, (channel, teacher), channel)
            arrays = header.bases[level].arrays(level).items()
            coordinates |= {n: (d, a) for (n, a), d in zip(arrays, dims, strict=True)}
    return xr.Dataset(variables, coordinates, root_attributes(header.spec))


def _open_level(header: Header, level: str, place: FsspecStore | LocalStore) -> xr.Variable:
    grid, scale = header.grids[level], header.scales.get(level)
    shape = (len(header.slots), grid.channels, *grid.size_tok)
    with one_line_for_reads(f"{header.files.url}/{level}"):
        try:
            array = zarr.open_array(place, path=level, mode="r")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise damaged(header.files, f"{level}/{ROOT_FILE}") from error
    if (array.shape, array.shards, array.dtype) != (shape, grid.shard_shape, grid.codec.dtype):
        raise damaged(header.files, f"{level}/{ROOT_FILE}")
    tokens = da.from_array(array, chunks=grid.shard_shape)
    if scale is not None:
        tokens = tokens.map_blocks(_decode, scale=scale, dtype=np.float32)
    channel = "channel" if header.spec.format == 1 else f"channel_{level}"
    attributes = {name: value for name, value in array.attrs.items() if name != "coordinates"}
    return xr.Variable(("image", channel, f"y_{level}", f"x_{level}"), tokens, attributes)


def _decode(codes: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn a block of codes (image, C, y, x) into numbers, NaN where there are none."""
    return np.where(codes == MISSING_CODE, np.float32(np.nan), codes * scale[:, None, None])
