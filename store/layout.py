"""Bytes of a store as zarr-python writes them, metadata and shards.

zarr-python encodes metadata into memory; shards are encoded here, as zarr-python copies every
number several times. `store.lease` puts the bytes in their place.
"""

# C channels, h w tokens

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import zarr
from numcodecs import Zstd
from numpy.dtypes import StringDType
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from store.codec import MISSING_CODE, ZSTD_LEVEL
from store.fingerprint import CRC_BYTES, crc32c, sha256, with_crc32c
from store.header import METADATA_FILE, Header, digests_json, root_attributes
from store.ledger import LEDGER, SLOTS_FILE, ChannelStatistics, slots_json
from store.spec import ImageEntry, LevelGrid, upright

THREADS: Final = min(
    4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
)
"""Images of a shard that are encoded at once: more would wait for memory."""

_KEYS = {"name": "default", "separator": "."}  # one folder per array
_HISTORY = (
    "written by `ssr embed`; without times, so that equal features give equal bytes: "
    "the provenance in the attributes of the group says by which code and weights"
)


def skeleton(header: Header) -> dict[str, bytes]:
    """Return every file of a store but its shards and their ledger, by POSIX path.

    They follow from the header alone, so that a writer can compare and repair them at any time.
    The last one holds the digests of all others and belongs on the disk last.
    """
    spec, slots = header.spec, header.slots
    memory: dict[str, Any] = {}
    root = root_attributes(spec)
    group = zarr.create_group(MemoryStore(memory), attributes=root)
    group.create_group(LEDGER, attributes={"about": "what is done, see store/README.md; JSON"})
    for level in header.levels:
        grid, scale = header.grids[level], header.scales.get(level)
        channel = "channel" if spec.format == 1 else f"channel_{level}"  # a size per name in xarray
        about: dict[str, Any] = {
            "long_name": f"teacher features, one token per {grid.stride_px} x {grid.stride_px} px",
            "units": "1",
            "stride_px": grid.stride_px,
            "teacher": root["provenance"].get("teacher"),
            "codec": spec.codec,
            "fingerprint": header.fingerprints[level],
            "format": spec.format,
            "history": _HISTORY,
            "coordinates": "height_px width_px live",
        }
        if spec.format > 1:
            about["channels"] = grid.channels
        if scale is not None:
            about["decoding"] = f"code * scale_{level}[channel]; {MISSING_CODE} where there is none"
            about["coordinates"] += f" scale_{level}"
            long_name = f"what a code of {level} is multiplied by"
            _add_vector(group, f"scale_{level}", scale, (channel,), {"long_name": long_name})
        if upright(level) in header.bases:
            arrays = header.bases[upright(level)].arrays(upright(level))
            about["projection"] = "{1} @ (features - {0})".format(*arrays)
            about["coordinates"] = " ".join((about["coordinates"], *arrays))
            for name, array in arrays.items() if level == upright(level) else ():
                teacher = f"teacher_channel_{level}"
                axes = {f"mean_{level}": (teacher,), f"basis_{level}": (channel, teacher)}
                of = {"long_name": f"of the principal components of {level}"}
                _add_vector(group, name, array, axes.get(name, (channel,)), of)
        group.create_array(
            level,
            **array_settings(grid, (len(slots), grid.channels, *grid.size_tok)),
            dimension_names=("image", channel, f"y_{level}", f"x_{level}"),
            attributes=about,
        )
    heights, widths = np.array([slot.image.working_size_px for slot in slots], np.int32).T
    ids = np.array([slot.image.image_id for slot in slots], dtype=StringDType())
    live = np.array([slot.live for slot in slots])
    _add_vector(group, "image", ids, ("image",), {"long_name": "image id in the manifest"})
    for axis, sizes in (("height", heights), ("width", widths)):
        long_name = f"valid {axis} of the working image; of a level: divided by its stride_px"
        _add_vector(group, f"{axis}_px", sizes, ("image",), {"long_name": long_name, "units": "px"})
    _add_vector(group, "live", live, ("image",), {"long_name": "false: removed from the data set"})

    files = {path: buffer.to_bytes() for path, buffer in memory.items()}
    files[SLOTS_FILE] = slots_json(slots, spec.format)
    digests = {path: sha256(data) for path, data in files.items()}
    return files | {METADATA_FILE: digests_json(digests, spec.format)}


def encode_images(
    grid: LevelGrid,
    scale: NDArray[np.float32] | None,
    images: Sequence[ImageEntry | None],
    features: Mapping[str, NDArray[Any]],
    threads: int = THREADS,
) -> tuple[memoryview, ChannelStatistics | None, int]:
    """Encode the images of a shard, to the bytes that zarr-python would write.

    `images` are those of the slots, `features` image id -> (C, h, w), finite; images without leave
    no trace. The bytes do not depend on `threads`, how many images are encoded at once.

    Returns:
        The shard, the statistics of what will be read from it, and how many numbers were clipped.
    """
    held = {
        row: features[image.image_id]
        for row, image in enumerate(images)
        if image is not None and image.image_id in features
    }
    chunks = [
        (row, y, x)
        for row, values in held.items()
        for y, x in grid.chunks_under(0, 0, *values.shape[1:])
    ]
    sides = (grid.shard_images, *grid.chunks_per_image)
    chunks.sort(key=lambda chunk: _morton_code(chunk, sides))
    slot_of = {chunk: slot for slot, chunk in enumerate(chunks)}
    size = grid.chunk_bytes + CRC_BYTES
    data = np.empty(len(chunks) * size + grid.index_bytes, np.uint8)
    places = data[: -grid.index_bytes].reshape(len(chunks), size)
    frames: list[bytes] = [b""] * len(chunks)  # where the codec compresses
    row_of_chunk = np.dtype((np.void, grid.chunk_side_tok * grid.codec.dtype.itemsize))

    def encode(row: int) -> tuple[ChannelStatistics, int]:
        stored, clipped = grid.codec.encode(held[row], scale)
        side = grid.chunk_side_tok
        for y, x in grid.chunks_under(0, 0, *stored.shape[1:]):
            slot = slot_of[row, y, x]
            raw = places[slot, :-CRC_BYTES]
            block = raw.view(grid.codec.dtype).reshape(grid.chunk_shape[1:])
            part = stored[:, y * side : (y + 1) * side, x * side : (x + 1) * side]
            if part.shape == block.shape:  # numbers would be copied one by one
                block, part = block.view(row_of_chunk), part.view(row_of_chunk)
            else:
                block[...] = grid.codec.fill
            block[:, : part.shape[1], : part.shape[2]] = part
            if grid.codec.compressed:
                frames[slot] = with_crc32c(Zstd(ZSTD_LEVEL).encode(raw))
            else:
                places[slot, -CRC_BYTES:] = np.frombuffer(crc32c(raw), np.uint8)
        return ChannelStatistics.of(grid.codec.decode(stored, scale)), clipped

    with ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(encode, held))
    lengths = np.full(len(chunks), size)
    if grid.codec.compressed:
        lengths = np.array([len(frame) for frame in frames])
    index = np.full((*sides, 2), 2**64 - 1, "<u8")  # what zarr-python says of a chunk without data
    if chunks:
        index[tuple(np.transpose(chunks))] = np.stack([lengths.cumsum() - lengths, lengths], 1)
    end = with_crc32c(index.tobytes())
    if grid.codec.compressed:
        data = np.frombuffer(b"".join([*frames, end]), np.uint8)
    else:
        data[-grid.index_bytes :] = np.frombuffer(end, np.uint8)
    statistics = ChannelStatistics.merge(part for part, _ in done)
    return data.data, statistics, sum(clipped for _, clipped in done)


def _morton_code(chunk: Sequence[int], sides: Sequence[int]) -> int:
    """Return the rank of a chunk in Z-order, with as many bits per axis as its side needs."""
    code, place = 0, 0
    for bit in range(max(sides).bit_length()):
        for at, side in zip(chunk, sides, strict=True):
            if bit < (side - 1).bit_length():
                code |= (at >> bit & 1) << place
                place += 1
    return code


def array_settings(grid: LevelGrid, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    """Return what `zarr.create_array` needs to lay out a level, or one shard of it."""
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


def _add_vector(
    group: zarr.Group,
    name: str,
    values: NDArray[Any],
    dimensions: tuple[str, ...],
    attributes: dict[str, str],
) -> None:
    """Add an array in one chunk."""
    group.create_array(
        name,
        data=values,
        chunks=values.shape,
        compressors=[Crc32cCodec()],
        chunk_key_encoding=_KEYS,
        dimension_names=dimensions,
        attributes=attributes,
    )
