"""How a number is stored: one name says type, rounding and compression.

Whatever the codec, features are rounded to float16 first. So a store that is converted from float16
holds the very bytes that embedding with its codec would have written.
"""

# C channels, h w tokens

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from store.errors import StoreError

CODECS: Final = ("float16", "int8", "int8-zstd")
ZSTD_LEVEL: Final = 3
"""Features do not repeat, so all that is gained is entropy coding, which every level does."""

HIGHEST_CODE: Final = 127
MISSING_CODE: Final = -128

OVERFLOW: Final = np.float32(65520.0)
"""The least number that rounds to infinity in float16."""


@dataclass(frozen=True)
class Codec:
    """What one name stands for.

    `float16` keeps the numbers as they are; `int8` keeps `round(number / scale)` with one scale per
    channel; `int8-zstd` compresses that.

    Attributes:
        name: As in params.yaml.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in CODECS:
            raise StoreError(f"unknown codec {self.name!r}: choose from {', '.join(CODECS)}")

    @cached_property
    def scaled(self) -> bool:
        """Whether a level needs a scale per channel before it can be written."""
        return self.name != "float16"

    @cached_property
    def compressed(self) -> bool:
        """Whether inner chunks go through zstd."""
        return self.name == "int8-zstd"

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Type of a stored number."""
        return np.dtype(np.int8 if self.scaled else "<f2")

    @cached_property
    def fill(self) -> float:
        """What is stored where there is no feature: it must never look like zeros."""
        return MISSING_CODE if self.scaled else float("nan")

    def encode(
        self, features: NDArray[Any], scale: NDArray[np.float32] | None
    ) -> tuple[NDArray[Any], int]:
        """Turn finite features (C, ...) into stored numbers; also count those that were clipped."""
        halves = np.ascontiguousarray(features, np.float16)
        if scale is not None:
            codes = np.rint(halves.astype(np.float32) / _along_channels(scale, halves.ndim))
            clipped = int(np.count_nonzero(np.abs(codes) > HIGHEST_CODE))
            return codes.clip(-HIGHEST_CODE, HIGHEST_CODE).astype(np.int8), clipped
        return halves, 0

    def decode(self, stored: NDArray[Any], scale: NDArray[np.float32] | None) -> NDArray[Any]:
        """Turn stored numbers (C, ...) that are all there into float16, or float32 if scaled."""
        if scale is None:
            return stored
        numbers: NDArray[np.float32] = np.multiply(
            stored, _along_channels(scale, stored.ndim), dtype=np.float32
        )
        return numbers


def _along_channels(scale: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    return scale.reshape(-1, *[1] * (dimensions - 1))


def _known(name: str) -> str:
    return Codec(name).name


CodecName: TypeAlias = Annotated[str, AfterValidator(_known)]
"""Name of a codec, checked where pydantic reads it."""
