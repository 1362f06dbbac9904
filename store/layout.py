"""The bytes of a store as zarr-python writes them: its metadata, coordinates and shards.

zarr-python encodes into memory and `store.atomic` puts the bytes in their place. Its own
`LocalStore` renames a temporary file too, but neither flushes it to the disk nor can replace a
damaged shard, because it reads the old one first.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import JsonValue
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import MemoryStore

from store.codec import MISSING_CODE, ZSTD_LEVEL
from store.fingerprint import CRC_BYTES, sha256, with_crc32c
from store.grid import LevelGrid
from store.header import (
    METADATA_FILE,
    ROOT_FILE,
    Header,
    MetadataDigests,
    RootAttributes,
    damaged,
)
from store.ledger import LEDGER, SLOTS_FILE, ChannelStatistics, Slot, slots_json
from store.scale import Scales, level_fingerprint, scale_name
from store.spec import ImageEntry, StoreSpec

_KEYS = {"name": "default", "separator": "."}  # one folder per array
_HISTORY = (
    "written by `ssr embed`; without times, so that equal features give equal bytes: "
    "the provenance in the attributes of the group says by which code and weights"
)


def skeleton(
    spec: StoreSpec, levels: Sequence[str], slots: Sequence[Slot], scales: Scales
) -> dict[str, bytes]:
    """Return every file of a store but its shards and their ledger, by POSIX path.

    The files follow from the arguments alone, so that a writer can compare and mend them at any
    time. The last one holds the digests of all others and belongs on the disk last.
    """
    memory: dict[str, Any] = {}
    root = RootAttributes.of(spec)
    group = zarr.create_group(MemoryStore(memory), attributes=root.as_json())
    group.create_group(LEDGER, attributes={"about": "what is done, see store/README.md; JSON"})
    for level in levels:
        grid = LevelGrid.of(spec, level)
        scale = scales.get(level)
        channel = "channel" if spec.format == 1 else f"channel_{level}"  # a size per name in xarray
        about = _about_level(grid, level_fingerprint(spec, level, scales), root)
        if scale is not None:
            about |= _about_codes(level)
            long_name = f"what a code of {level} is multiplied by"
            _add_vector(group, scale_name(level), scale, channel, {"long_name": long_name})
        group.create_array(
            level,
            **_array_settings(grid, (len(slots), grid.channels, *grid.size_tok)),
            dimension_names=("image", channel, f"y_{level}", f"x_{level}"),
            attributes=about,
        )
    heights, widths = np.array([slot.image.working_size_px for slot in slots], np.int32).T
    ids = np.array([slot.image.image_id for slot in slots], dtype=object)
    live = np.array([slot.live for slot in slots])
    _add_vector(group, "image", ids, "image", {"long_name": "image id in the manifest"})
    for axis, sizes in (("height", heights), ("width", widths)):
        long_name = f"valid {axis} of the working image; of a level: divided by its stride_px"
        _add_vector(group, f"{axis}_px", sizes, "image", {"long_name": long_name, "units": "px"})
    _add_vector(group, "live", live, "image", {"long_name": "false: removed from the data set"})

    files = {path: buffer.to_bytes() for path, buffer in memory.items()}
    files[SLOTS_FILE] = slots_json(slots, spec.format)
    digests = MetadataDigests.of({path: sha256(data) for path, data in files.items()}, spec.format)
    return files | {METADATA_FILE: digests.json_bytes()}


def check_layout(header: Header) -> None:
    """Refuse metadata by which zarr would read something else than the store of a header.

    What was spelled by another version of zarr-python may differ in bytes, not in meaning.

    Raises:
        StoreError: A metadata file says another shape, type or codec, or another coordinate.
        OSError: A file cannot be read.
    """
    wanted = skeleton(header.spec, header.levels, header.slots, header.scales)
    for name in wanted.keys() - {METADATA_FILE, SLOTS_FILE}:
        if header.digests.get(name) == sha256(wanted[name]):
            continue
        try:
            same = _meaning(header.files.read(name)) == _meaning(wanted[name])
        except FileNotFoundError:
            same = False
        if not name.endswith(ROOT_FILE) or not same:
            raise damaged(header.files, name)


def _meaning(data: bytes) -> dict[str, Any] | None:
    """Return what zarr and xarray go by in a `zarr.json`; None of what is none."""
    try:
        found = json.loads(data)
        about = {"coordinates": found["attributes"].get("coordinates")}
        if found["node_type"] == "group":
            return about | {"node_type": "group", "zarr_format": found["zarr_format"]}
        array: dict[str, Any] = ArrayV3Metadata.from_dict(found | {"attributes": about}).to_dict()
        return array
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def encode_images(
    grid: LevelGrid,
    scale: NDArray[np.float32] | None,
    images: Sequence[ImageEntry | None],
    features: Mapping[str, NDArray[Any]],
) -> tuple[bytes | memoryview, ChannelStatistics | None, int]:
    """Encode the images of a shard.

    Args:
        grid: Layout of the level.
        scale: (C,) where the codec has one.
        images: The image of each slot.
        features: image id -> (C, h, w), finite; images without features leave no trace.

    Returns:
        The shard, the statistics of what will be read from it (None of nothing), and how many
        numbers were clipped.
    """
    codec = grid.codec
    block = np.full(grid.shard_shape, codec.fill, codec.dtype)
    parts, saturated = [], 0
    for row, image in enumerate(images):
        if image is not None and image.image_id in features:
            h, w = grid.image_size_tok(image.working_size_px)
            stored, clipped = codec.encode(features[image.image_id], scale)
            block[row, :, :h, :w] = stored
            parts.append(ChannelStatistics.of(codec.decode(stored, scale)))
            saturated += clipped
    data = encode_shard(block, grid) if parts else empty_shard(grid)
    return data, ChannelStatistics.merge(parts), saturated


def empty_shard(grid: LevelGrid) -> bytes:
    """Encode a shard without any feature, for which zarr-python would write no file."""
    index = np.full(grid.index_bytes - CRC_BYTES, 0xFF, np.uint8)  # no chunk is there
    return with_crc32c(index.tobytes())


def encode_shard(block: NDArray[Any], grid: LevelGrid) -> memoryview:
    """Encode a whole shard; inner chunks without features take no space.

    Args:
        block: Stored numbers (shard_images, C, y, x) in the shape of the shard, the codec's fill
            where there are none.
        grid: Layout of the level.
    """
    assert block.shape == grid.shard_shape, (block.shape, grid.shard_shape)
    memory: dict[str, Any] = {}
    array = zarr.create_array(MemoryStore(memory), **_array_settings(grid, grid.shard_shape))
    array[...] = block
    return memoryview(memory["c.0.0.0.0"].as_numpy_array())


def _array_settings(grid: LevelGrid, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    zstd = [ZstdCodec(level=ZSTD_LEVEL)] if grid.codec.compressed else []
    return {
        "shape": shape,
        "dtype": grid.codec.dtype,
        "chunks": grid.chunk_shape,
        "shards": grid.shard_shape,
        "compressors": [*zstd, Crc32cCodec()],  # the checksum is of what lies on the disk
        "fill_value": grid.codec.fill,  # a missing shard must never look like zeros
        "chunk_key_encoding": _KEYS,
        "config": {"write_empty_chunks": False, "order": "C"},
    }


def _about_level(grid: LevelGrid, fingerprint: str, root: RootAttributes) -> dict[str, JsonValue]:
    stride = grid.stride_px
    about: dict[str, JsonValue] = {
        "long_name": f"teacher features, one token per {stride} x {stride} px",
        "units": "1",
        "stride_px": stride,
        "teacher": root.provenance.get("teacher"),
        "codec": root.codec,
        "fingerprint": fingerprint,
        "format": root.format,
        "history": _HISTORY,
        "coordinates": "height_px width_px live",
    }
    return about if root.format == 1 else about | {"channels": grid.channels}


def _about_codes(level: str) -> dict[str, JsonValue]:
    return {
        "decoding": f"code * {scale_name(level)}[channel]; {MISSING_CODE} where there is none",
        "coordinates": f"height_px width_px live {scale_name(level)}",
    }


def _add_vector(
    group: zarr.Group, name: str, values: NDArray[Any], dimension: str, attributes: dict[str, str]
) -> None:
    """Add an array along one dimension, in one chunk."""
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=str if values.dtype == object else values.dtype,
        chunks=values.shape,
        compressors=[Crc32cCodec()],
        chunk_key_encoding=_KEYS,
        dimension_names=(dimension,),
        attributes=attributes,
    )
    array[:] = values
