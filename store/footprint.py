"""The room that a store will take, from the arithmetic of `grid` and `layout`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from store.codec import Codec
from store.fingerprint import CRC_BYTES
from store.grid import LevelGrid, shard_count
from store.layout import skeleton
from store.ledger import Slot
from store.spec import ImageEntry, StoreSpec

_ENTRY_BYTES, _ENTRY_PER_IMAGE, _ENTRY_PER_CHANNEL = 325, 57, 60
"""Of a shard's ledger entry: keys and hashes, an image but for its names, four statistics."""

FLOAT16_BYTES: Final = 2

LOCKS: Final = 2
"""Files that are neither data nor metadata: `ledger/leases/*.lock`, which stay, empty."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Room on the disk."""

    files: int
    size_bytes: int

    def __add__(self, other: "Footprint") -> "Footprint":
        return Footprint(self.files + other.files, self.size_bytes + other.size_bytes)


@dataclass(frozen=True)
class StoreFootprint:
    """Room that a complete store takes.

    Attributes:
        levels: Level -> its shards with their ledger entries.
        metadata: All other files of the store.
    """

    levels: Mapping[str, Footprint]
    metadata: Footprint

    @property
    def total(self) -> Footprint:
        """The whole folder."""
        return sum(self.levels.values(), self.metadata)


def footprint(
    spec: StoreSpec, images: Sequence[ImageEntry], levels: Sequence[str]
) -> StoreFootprint:
    """Predict files and bytes of a store that is embedded in one go, in float16.

    Shards and metadata are exact; the ledger, some thousandths of a store of SAM's, is a guess.

    Args:
        spec: What the features are.
        images: Images in the order of their slots.
        levels: Levels that are embedded.
    """
    slots = [Slot(image, live=True) for image in images]
    scaled = levels if Codec(spec.codec).scaled else ()
    scales = {level: np.ones(spec.level(level).channels, np.float32) for level in scaled}
    files = skeleton(spec, levels, slots, scales)
    return StoreFootprint(
        levels={level: _level(spec, images, level) for level in levels},
        metadata=Footprint(len(files) + LOCKS, sum(map(len, files.values()))),
    )


def size_ratio(codec: str) -> float:
    """Return the bytes of a shard under a codec over those of float16.

    Exact for float16 and int8, for int8-zstd the table of README.md (random weights).
    """
    return {"float16": 1.0, "int8": 0.50, "int8-zstd": 0.38}[codec]


def _level(spec: StoreSpec, images: Sequence[ImageEntry], level: str) -> Footprint:
    grid, shards = LevelGrid.of(spec, level), shard_count(len(images), spec.shard_images)
    chunk_bytes = prod(grid.chunk_shape) * FLOAT16_BYTES + CRC_BYTES
    entry_bytes = _ENTRY_BYTES + _ENTRY_PER_CHANNEL * grid.channels
    size_bytes = shards * (grid.index_bytes + entry_bytes)
    for image in images:
        # inner chunks that hold a token of the image; others are not stored
        chunks = sum(
            1 for _ in grid.chunks_under(0, 0, *grid.image_size_tok(image.working_size_px))
        )
        names_bytes = len(image.image_id) + len(image.content)
        size_bytes += chunks * chunk_bytes + names_bytes + _ENTRY_PER_IMAGE
    return Footprint(2 * shards, size_bytes)
