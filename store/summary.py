"""A store at a glance: its teacher, size and statistics, or all of it as a lazy xarray data set."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import JsonValue
from zarr.errors import ZarrUserWarning
from zarr.storage import FsspecStore, LocalStore

from store.codec import MISSING_CODE
from store.errors import StoreError
from store.files import S3, Url, files_at, one_line_for_reads
from store.grid import LevelGrid, place_of
from store.header import Header, RootAttributes, read_header
from store.layout import check_layout
from store.ledger import ChannelStatistics, Ledger


@dataclass(frozen=True)
class LevelSummary:
    """One level of a store.

    Attributes:
        shape: (image, channel, y, x) of the array.
        shard_shape: The unit of writing.
        chunk_shape: The unit of reading.
        fingerprint: Fingerprint of the level.
        shards_done: Shards that the ledger records as done.
        shards: Shards that hold an image of the data set.
        size_bytes: Size of the done shards on the disk.
        statistics: Per channel over all stored tokens, those of removed images included; None
            where nothing is stored.
        saturated: Stored numbers that the scale of an 8 bit codec was too small for.
        skipped: Images that should be there and could not be read -> why.
    """

    shape: tuple[int, int, int, int]
    shard_shape: tuple[int, int, int, int]
    chunk_shape: tuple[int, int, int, int]
    fingerprint: str
    shards_done: int
    shards: int
    size_bytes: int
    statistics: ChannelStatistics | None
    saturated: int
    skipped: Mapping[str, str]

    @property
    def numbers(self) -> int:
        """Numbers that are stored."""
        return 0 if self.statistics is None else self.statistics.count * self.shape[1]


@dataclass(frozen=True)
class StoreSummary:
    """One store.

    Attributes:
        path: Url of the store.
        domain: `source` or `target`.
        fingerprint: Fingerprint of the store.
        codec: How a number is stored.
        provenance: What the features depend on.
        images: Images of the data set.
        removed_images: Tombstones.
        levels: Level -> its summary, finest first.
    """

    path: str
    domain: str
    fingerprint: str
    codec: str
    provenance: Mapping[str, JsonValue]
    images: int
    removed_images: int
    levels: Mapping[str, LevelSummary]

    @property
    def skipped(self) -> dict[str, str]:
        """Images that have no features at some level, since they could not be read -> why."""
        return {i: why for level in self.levels.values() for i, why in level.skipped.items()}

    @property
    def complete(self) -> bool:
        """Whether every image of the data set is there at every level, or was skipped."""
        return all(level.shards_done == level.shards for level in self.levels.values())


def inspect(path: Url, *, recompute: bool = False) -> StoreSummary:
    """Summarise the store at a path, from its ledger alone.

    Args:
        path: Url of the store.
        recompute: Compute the statistics from the features by dask, shard by shard in float64,
            which also verifies the checksum of every chunk.

    Raises:
        StoreUnreadableError: A file cannot be looked at.
        StoreError: There is no store, its metadata is not sound, or a shard is damaged.
    """
    header = read_header(files_at(path))
    with one_line_for_reads(header.files.url):
        levels = {level: _summarise(header, level) for level in header.levels}
        for level, found in _recompute(header).items() if recompute else ():
            levels[level] = replace(levels[level], statistics=found)
    live = sum(slot.live for slot in header.slots)
    return StoreSummary(
        path=header.files.url,
        domain=header.spec.domain,
        fingerprint=header.spec.fingerprint,
        codec=header.spec.codec,
        provenance=RootAttributes.of(header.spec).provenance,
        images=live,
        removed_images=len(header.slots) - live,
        levels=levels,
    )


def _summarise(header: Header, level: str) -> LevelSummary:
    slots, shard_images = header.slots, header.spec.shard_images
    grid = LevelGrid.of(header.spec, level)
    ledger = Ledger(header.files)
    entries = [found for found in header.recorded(level) if ledger.has_file(found[1])]
    statistics = (ledger.statistics(level, e.shard, grid.channels) for _, e in entries)
    return LevelSummary(
        shape=(len(slots), grid.channels, *grid.size_tok),
        shard_shape=grid.shard_shape,
        chunk_shape=grid.chunk_shape,
        fingerprint=header.level_fingerprint(level),
        shards_done=sum(any(images) for images, _ in entries),
        shards=len({place_of(n, shard_images)[0] for n, slot in enumerate(slots) if slot.live}),
        size_bytes=sum(entry.bytes for _, entry in entries),
        statistics=ChannelStatistics.merge(statistics),
        saturated=sum(entry.saturated or 0 for _, entry in entries),
        skipped={
            i: why for images, entry in entries for i, why in entry.skipped_of(images).items()
        },
    )


def _recompute(header: Header) -> dict[str, ChannelStatistics | None]:
    dataset = open_dataset_of(header)
    summarise = dask.delayed(_statistics_of_block)
    tasks = {
        level: [summarise(block) for block in dataset[level].data.to_delayed().ravel()]
        for level in header.levels
    }
    try:
        (blocks,) = dask.compute(tasks)
    except (ValueError, RuntimeError, ArithmeticError) as error:  # zarr's words for damage
        raise StoreError(
            f"a shard of the store is damaged: `ssr verify {header.files.url}` says which, and "
            "with --repair embeds it again"
        ) from error
    return {level: ChannelStatistics.merge(parts) for level, parts in blocks.items()}


def _statistics_of_block(block: NDArray[Any]) -> ChannelStatistics | None:
    """Summarise the valid tokens of a block (image, C, y, x)."""
    parts = []
    for features in block:  # (C, y, x)
        valid = ~np.isnan(features[0])  # a token is there for all channels or for none
        if valid.any():
            parts.append(ChannelStatistics.of(features[:, valid]))
    return ChannelStatistics.merge(parts)


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
    store = (
        FsspecStore.from_url(url, read_only=True)
        if url.startswith(S3)
        else LocalStore(url, read_only=True)  # zarr splits a text at `::`
    )
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
