"""Specification of a store: its levels, the images that it holds, and the layout of a level."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, NamedTuple, TypeAlias

from pydantic import JsonValue

from store.codec import Bases, Codec, Scales
from store.errors import StoreError
from store.files import is_name
from store.fingerprint import CRC_BYTES, fingerprint_of, sha256

Format: TypeAlias = Literal[1, 2]
FORMAT: Final = 2
"""Version of the contract in store/README.md; part of every fingerprint. Stores of format 1 are
still read, verified and completed."""

COARSEST_STRIDE_PX = 32
"""Working sizes are multiples of it, so that every level covers an image exactly."""

MOST_CHANNELS: Final = 2**14
MOST_SHARD_IMAGES: Final = 2**10
MOST_SIDE_PX: Final = 2**16
"""Bounds of a specification, so that memory is not allocated by what a damaged file says."""

Size: TypeAlias = tuple[int, int]  # (height, width)


class Level(NamedTuple):
    """One feature map: side of a token in working pixels, and its numbers."""

    stride_px: int
    channels: int


TAKEN: Final = "image|height_px|width_px|live"
"""Names of the arrays of a store that are no level's."""

LEVEL_NAME: Final = (
    rf"(?!(?:{TAKEN}|ledger|leases)(?![A-Za-z0-9_])|(?:scale|mean|basis|explained|channel|teacher_channel|y|x)_)"
    "[A-Za-z][A-Za-z0-9_]{0,63}"
)
"""Names that a level can have: none that a store needs for something else."""


FLIPPED: Final = "_flipped"
"""Ending of a level that the teacher made of mirrored images; its tokens lie where those of the
image do, so a window of it is that of a mirrored crop, mirrored back."""

LEVELS = ("stride8", "stride16", "stride32")
"""Levels of format 1 and of SAM, finest first."""


def stride_of(level: str) -> int:
    """Return the stride of one of `LEVELS` in working pixels; StoreError for any other name."""
    if level not in LEVELS:
        raise StoreError(f"unknown level {level!r}: choose from {', '.join(LEVELS)}")
    return int(level.removeprefix("stride"))


def upright(level: str) -> str:
    """Return the level of images as they are, for one of mirrored images."""
    return level.removesuffix(FLIPPED)


def levels_of_format_1(channels: int) -> dict[str, Level]:
    """Return all levels that a store of format 1 can have; they share their channels."""
    return {name: Level(stride_of(name), channels) for name in LEVELS}


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image: its id in the manifest, a hash of all that its features depend on, its size."""

    image_id: str
    content: str
    working_size_px: Size


@dataclass(frozen=True)
class StoreSpec:
    """What the features of one store are and how they are laid out, but not of which images.

    Attributes:
        domain: Folder of the store, `source` or `target`.
        levels: Levels that the store can have or, where it was read, has, by name.
        grid_px: (height, width) of the largest working image.
        codec: The name of a `Codec`.
        provenance: What the numbers depend on: teacher, preprocessing, tiling, precision, code.
    """

    domain: str
    levels: Mapping[str, Level]
    grid_px: Size
    shard_images: int
    codec: str
    provenance: Mapping[str, JsonValue]
    format: Format = FORMAT

    def __post_init__(self) -> None:
        Codec(self.codec)
        possible = (
            is_name(self.domain)
            and "/" not in self.domain
            and 1 <= self.shard_images <= MOST_SHARD_IMAGES
            and is_working_size(self.grid_px)
            and max(self.grid_px) <= MOST_SIDE_PX
        )
        for name, (stride, channels) in self.levels.items():
            possible &= re.fullmatch(LEVEL_NAME, name) is not None
            possible &= 1 <= channels <= MOST_CHANNELS
            possible &= stride >= 1 and COARSEST_STRIDE_PX % stride == 0
        if not possible:
            raise StoreError(
                f"no store can have the domain {self.domain!r}, {self.shard_images} images per "
                f"shard, the grid {self.grid_px} px and {dict(self.levels)}: see store/README.md"
            )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (64 hex) of all that a stored number and its place in a file depend on.

        The domain is left out: two domains under one teacher share their fingerprint.
        """
        about: dict[str, object] = {
            "format": self.format,
            "codec": self.codec,
            "shard_images": self.shard_images,
            "grid_px": self.grid_px,
            "provenance": self.provenance,
        }
        if self.channels is not None:
            about["channels"] = self.channels
        return fingerprint_of(about)

    @property
    def channels(self) -> int | None:
        """Channels of every level in format 1, None in format 2, where each has its own."""
        return next(iter(self.levels.values())).channels if self.format == 1 else None

    def level(self, name: str) -> Level:
        """Return a level; StoreError where there is none of this name."""
        try:
            return self.levels[name]
        except KeyError:
            raise StoreError(
                f"unknown level {name!r}: choose from {', '.join(self.levels)}"
            ) from None

    @property
    def projected(self) -> bool:
        """Whether levels hold principal components, by a basis beside them."""
        return "projection" in self.provenance

    def level_fingerprint(self, level: str, scales: Scales, bases: Bases) -> str:
        """SHA-256 (64 hex) of a level, its scale and its basis, without which codes mean nothing.

        It does not depend on which other levels there are.
        """
        about: dict[str, object] = {"store": self.fingerprint, "level": level}
        if self.format > 1:
            about |= self.level(level)._asdict()
        if level in scales:
            about["scale"] = sha256(scales[level].tobytes())
        if upright(level) in bases:
            about["basis"] = bases[upright(level)].digest
        return fingerprint_of(about)

    @property
    def relative_path(self) -> str:
        """POSIX path of the store below the store url: `<domain>/<fingerprint8>.zarr`."""
        return f"{self.domain}/{self.fingerprint[:8]}.zarr"


def is_working_size(size_px: Size) -> bool:
    """Tell whether both sides are positive multiples of the coarsest stride."""
    return all(side > 0 and side % COARSEST_STRIDE_PX == 0 for side in size_px)


def check_images(spec: StoreSpec, images: Sequence[ImageEntry]) -> None:
    """Raise StoreError for no images, an id that is given twice, or a size that does not fit."""
    ids = {image.image_id for image in images}
    fit = all(
        is_working_size(size) and size[0] <= spec.grid_px[0] and size[1] <= spec.grid_px[1]
        for size in {image.working_size_px for image in images}
    )
    if not images or len(ids) < len(images) or not fit:
        raise StoreError(
            f"no store of {spec.domain} can have these images: it takes one at least, each id "
            f"once, and multiples of 32 px within its grid {spec.grid_px} px; run `ssr prepare`"
        )


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

    def image_size_tok(self, working_size_px: Size) -> Size:
        """Return the valid (height, width) of an image in tokens of this level."""
        return (working_size_px[0] // self.stride_px, working_size_px[1] // self.stride_px)

    def chunks_under(self, y: int, x: int, h: int, w: int) -> Iterator[tuple[int, int]]:
        """Yield (row, column) of each inner chunk that a window of tokens touches."""
        side = self.chunk_side_tok
        for row in range(y // side, (y + h - 1) // side + 1):
            for column in range(x // side, (x + w - 1) // side + 1):
                yield row, column


def shard_file(level: str, shard: int) -> str:
    """Return the POSIX path of a shard inside a store: one folder per level, by Zarr's "." keys."""
    return f"{level}/c.{shard}.0.0.0"


def shard_numbers(names: Iterable[str]) -> list[int]:
    """Return the numbers in the names of shards or of their entries; other names say nothing."""
    shard = re.compile(r"c\.(0|[1-9][0-9]{0,9})\.0\.0\.0|([0-9]{6}|[1-9][0-9]{6,9})\.json")
    return [int(found[1] or found[2]) for found in map(shard.fullmatch, names) if found]
