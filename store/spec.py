"""The nouns of a store: its levels, its specification, the images that it holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

from store.codec import Codec
from store.errors import StoreError
from store.files import is_name
from store.fingerprint import fingerprint_of

FORMAT: Final = 1
"""Version of the contract in store/README.md; part of every fingerprint."""

LEVELS = ("stride8", "stride16", "stride32")
"""All levels that a store can hold, finest first, named by their stride in working pixels."""

COARSEST_STRIDE_PX = 32
"""Working sizes are multiples of it, so that every level covers an image exactly."""

MOST_CHANNELS: Final = 2**14
MOST_SHARD_IMAGES: Final = 2**10
MOST_SIDE_PX: Final = 2**16
"""Bounds of a specification, so that memory is not allocated by what a damaged file says."""

Size: TypeAlias = tuple[int, int]  # (height, width)
JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | float | bool | None"


def stride_of(level: str) -> int:
    """Return the side of one token of a level, in working pixels.

    Raises:
        StoreError: The level is none of `LEVELS`.
    """
    if level not in LEVELS:
        raise StoreError(f"unknown level {level!r}: choose from {', '.join(LEVELS)}")
    return int(level.removeprefix("stride"))


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image as the store sees it.

    Attributes:
        image_id: Stable key of the image in the manifest.
        content: Hash of everything about the image that its features depend on.
        working_size_px: (height, width) of the working image.
    """

    image_id: str
    content: str
    working_size_px: Size


@dataclass(frozen=True)
class StoreSpec:
    """What the features of one store are and how they are laid out, but not of which images.

    Attributes:
        domain: Folder of the store, `source` or `target`.
        channels: Channels of the teacher.
        grid_px: (height, width) of the largest working image.
        shard_images: Images in one shard.
        codec: How a number is stored, the name of a `Codec`.
        provenance: What the numbers depend on: teacher, preprocessing, tiling, precision, code.
    """

    domain: str
    channels: int
    grid_px: Size
    shard_images: int
    codec: str
    provenance: Mapping[str, JSON]

    def __post_init__(self) -> None:
        Codec(self.codec)
        if not is_name(self.domain) or "/" in self.domain:
            raise StoreError(f"the domain {self.domain!r} is no name of a folder")
        if not (
            1 <= self.channels <= MOST_CHANNELS and 1 <= self.shard_images <= MOST_SHARD_IMAGES
        ):
            raise StoreError(
                f"a store needs at least one channel and one image per shard, at most "
                f"{MOST_CHANNELS} and {MOST_SHARD_IMAGES}, got channels={self.channels} and "
                f"shard_images={self.shard_images}"
            )
        if not is_working_size(self.grid_px) or max(self.grid_px) > MOST_SIDE_PX:
            raise StoreError(
                f"the grid {self.grid_px} px is not a positive multiple of {COARSEST_STRIDE_PX} px "
                f"up to {MOST_SIDE_PX} px"
            )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (64 hex) of all that a stored number and its place in a file depend on.

        The domain is left out: two domains under one teacher share their fingerprint.
        """
        return fingerprint_of(
            {
                "format": FORMAT,
                "codec": self.codec,
                "channels": self.channels,
                "shard_images": self.shard_images,
                "grid_px": self.grid_px,
                "provenance": self.provenance,
            }
        )

    def level_fingerprint(self, level: str, scale: str | None = None) -> str:
        """SHA-256 (64 hex) of one level: it does not depend on which other levels there are.

        Args:
            level: One of `LEVELS`.
            scale: Digest of its scale, where the codec has one: codes mean nothing without it.
        """
        about = {"store": self.fingerprint, "level": level}
        return fingerprint_of(about if scale is None else about | {"scale": scale})

    @property
    def relative_path(self) -> str:
        """POSIX path of the store below the store url: `<domain>/<fingerprint8>.zarr`."""
        return f"{self.domain}/{self.fingerprint[:8]}.zarr"


def is_working_size(size_px: Size) -> bool:
    """Tell whether both sides are positive multiples of the coarsest stride."""
    return all(side > 0 and side % COARSEST_STRIDE_PX == 0 for side in size_px)
