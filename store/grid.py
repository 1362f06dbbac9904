"""Layout of a level: slots in shards, tokens in inner chunks, shards in files."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from store.codec import Codec
from store.fingerprint import CRC_BYTES
from store.spec import Size, StoreSpec

CHUNK_SIDE_TOK = 16
"""Side of an inner chunk. A 64x64 window at a random origin then reads 1.5 times what it needs
(32: 2.2 times), and with SAM's 256 channels a chunk is 128 KiB, large enough that the cost per
chunk hardly counts; the table is in README.md."""

INDEX_ENTRY_BYTES = 16  # offset and length, two little-endian uint64


@dataclass(frozen=True)
class LevelGrid:
    """Shape of one level: `(image, channel, y, x)` cut into shards of whole images.

    Attributes:
        stride_px: Side of a token in working pixels.
        size_tok: (height, width) of the array, in tokens.
        chunk_side_tok: Side of an inner chunk, which holds one image and all channels.
    """

    level: str
    stride_px: int
    channels: int
    shard_images: int
    size_tok: Size
    chunk_side_tok: int
    codec: Codec

    @classmethod
    def of(cls, spec: StoreSpec, level: str) -> "LevelGrid":
        """Lay out one level of a store."""
        stride, channels = spec.level(level)
        size_tok = (spec.grid_px[0] // stride, spec.grid_px[1] // stride)
        return cls(
            level=level,
            stride_px=stride,
            channels=channels,
            shard_images=spec.shard_images,
            size_tok=size_tok,
            chunk_side_tok=min(CHUNK_SIDE_TOK, max(size_tok)),
            codec=Codec(spec.codec),
        )

    @cached_property
    def chunk_shape(self) -> tuple[int, int, int, int]:
        """Shape of an inner chunk, the unit of reading."""
        return (1, self.channels, self.chunk_side_tok, self.chunk_side_tok)

    @cached_property
    def chunks_per_image(self) -> Size:
        """Rows and columns of inner chunks that cover one image."""
        side = self.chunk_side_tok
        return (-(-self.size_tok[0] // side), -(-self.size_tok[1] // side))

    @property
    def shard_shape(self) -> tuple[int, int, int, int]:
        """Shape of a shard, the unit of writing; y and x are rounded up to whole chunks."""
        rows, columns = self.chunks_per_image
        side = self.chunk_side_tok
        return (self.shard_images, self.channels, rows * side, columns * side)

    @cached_property
    def chunk_bytes(self) -> int:
        """Size of an inner chunk before compression, without its checksum."""
        return self.channels * self.chunk_side_tok**2 * self.codec.dtype.itemsize

    @cached_property
    def index_bytes(self) -> int:
        """Size of the chunk index at the end of a shard, with its checksum."""
        rows, columns = self.chunks_per_image
        return self.shard_images * rows * columns * INDEX_ENTRY_BYTES + CRC_BYTES

    @property
    def most_shard_bytes(self) -> int:
        """Size that no shard exceeds, by the bound of zstd for what cannot be compressed."""
        rows, columns = self.chunks_per_image
        most_chunk_bytes = self.chunk_bytes + self.chunk_bytes // 256 + 64 + CRC_BYTES
        return self.shard_images * rows * columns * most_chunk_bytes + self.index_bytes

    def image_size_tok(self, working_size_px: Size) -> Size:
        """Return the valid (height, width) of an image in tokens of this level."""
        return (working_size_px[0] // self.stride_px, working_size_px[1] // self.stride_px)

    def chunks_under(self, y: int, x: int, h: int, w: int) -> Iterator[tuple[int, int]]:
        """Yield (row, column) of each inner chunk that a window of tokens touches."""
        side = self.chunk_side_tok
        for row in range(y // side, (y + h - 1) // side + 1):
            for column in range(x // side, (x + w - 1) // side + 1):
                yield row, column


def shard_count(slots: int, shard_images: int) -> int:
    """Return how many shards hold a number of slots."""
    return -(-slots // shard_images)


def slots_of(shard: int, slots: int, shard_images: int) -> range:
    """Return the slots of one shard; the last may have fewer than `shard_images`."""
    return range(shard * shard_images, min((shard + 1) * shard_images, slots))


def place_of(slot: int, shard_images: int) -> tuple[int, int]:
    """Return the shard of a slot and its row in that shard."""
    return divmod(slot, shard_images)


def shard_file(level: str, shard: int) -> str:
    """Return the POSIX path of a shard inside a store: one folder per level, by Zarr's "." keys."""
    return f"{level}/c.{shard}.0.0.0"


def shard_of(name: str) -> int | None:
    """Return the number in the name of a shard or of its entry; None of names of other files."""
    found = re.fullmatch(r"c\.(0|[1-9][0-9]{0,9})\.0\.0\.0|([0-9]{6}|[1-9][0-9]{6,9})\.json", name)
    return None if found is None else int(found[1] or found[2])
