"""Codecs: type, rounding and compression of a stored number, and the scales of 8 bits.

Whatever `store.codec`, features are rounded to float16 first, so that converting a float16 store
gives the very bytes that embedding with the codec would have written.
"""

# C channels of the teacher, N of the store, h w tokens

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from store.errors import StoreError
from store.fingerprint import sha256

CodecName: TypeAlias = Literal["float16", "int8", "int8-zstd"]
CODECS: Final = get_args(CodecName)
"""What `store.codec` can name."""

EXACT: Final = "float32"
"""Codec of numbers that training goes on computing with, whatever `store.codec` names."""

ZSTD_LEVEL: Final = 3
"""Features do not repeat, so all that is gained is entropy coding, which every level does."""

HIGHEST_CODE: Final = 127
MISSING_CODE: Final = -128

OVERFLOW: Final = np.float32(65520.0)
"""The least number that rounds to infinity in float16."""

SAMPLE_IMAGES: Final = 16
"""Images that scales are estimated from: at stride8 of Cityscapes' size some 200,000 tokens."""

HEADROOM: Final = 1.25
"""Share of the sample's peak that fits: a clipped number costs a token more than coarser codes."""

Scales: TypeAlias = Mapping[str, NDArray[np.float32]]
"""level -> (C,) float32, greater than zero"""

_Image = TypeVar("_Image")


@dataclass(frozen=True)
class Codec:
    """A codec by its name, one of `CODECS` or `EXACT`; store/README.md says what each keeps."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in (*CODECS, EXACT):
            raise StoreError(f"unknown codec {self.name!r}: choose from {', '.join(CODECS)}")

    @cached_property
    def scaled(self) -> bool:
        """Whether a level needs a scale per channel before it can be written."""
        return self.name not in ("float16", EXACT)

    @cached_property
    def compressed(self) -> bool:
        """Whether inner chunks go through zstd."""
        return self.name == "int8-zstd"

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Type of a stored number."""
        return np.dtype(np.int8 if self.scaled else "<f4" if self.name == EXACT else "<f2")

    @property
    def bound(self) -> np.float32:
        """The least number that is too large."""
        return np.float32(np.inf) if self.name == EXACT else OVERFLOW

    @cached_property
    def fill(self) -> float:
        """What is stored where there is no feature: it must never look like zeros."""
        return MISSING_CODE if self.scaled else float("nan")

    def encode(
        self, features: NDArray[Any], scale: NDArray[np.float32] | None
    ) -> tuple[NDArray[Any], int]:
        """Turn finite features (C, h, w) into stored numbers; count those that were clipped."""
        if scale is None:
            return np.ascontiguousarray(features, self.dtype), 0
        halves = np.ascontiguousarray(features, np.float16)
        codes = halves.astype(np.float32)
        codes /= scale[:, None, None]
        np.rint(codes, out=codes)
        clipped = int(np.count_nonzero(np.abs(codes) > HIGHEST_CODE))
        return codes.clip(-HIGHEST_CODE, HIGHEST_CODE, out=codes).astype(np.int8), clipped

    def decode(self, stored: NDArray[Any], scale: NDArray[np.float32] | None) -> NDArray[Any]:
        """Turn stored numbers (C, h, w), all there, into float16 if the codec is, else float32."""
        if scale is None:
            return stored
        numbers: NDArray[Any] = np.multiply(stored, scale[:, None, None], dtype=np.float32)
        return numbers


def scale_sample(images: Sequence[_Image]) -> tuple[_Image, ...]:
    """Choose the images that scales are estimated from: spread evenly, always the same ones."""
    count = min(SAMPLE_IMAGES, len(images))
    return tuple(images[n * len(images) // count] for n in range(count))


def estimate_scale(level: str, features: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    """Return the scale (C,) under which no number of a sample is clipped, with some headroom.

    A channel that is zero throughout gets the scale of one whose largest number is 1. `features`
    are (C, h, w) of each image, float32 or float16; StoreError where float16 cannot hold them.
    """
    with np.errstate(over="ignore"):
        peaks = [np.abs(image.astype(np.float16)).max(axis=(1, 2)) for image in features]
    peak: NDArray[np.float32] = np.max(peaks, axis=0).astype(np.float32)
    _require_finite(f"the scale of {level}", peak)
    peak[peak == 0] = 1.0
    return peak * np.float32(HEADROOM / HIGHEST_CODE)


def _require_finite(what: str, numbers: NDArray[Any]) -> None:
    if not np.isfinite(numbers).all():
        raise StoreError(
            f"{what}: features are NaN, Inf or too large; check the teacher's weights and precision"
        )


BASIS_ARRAYS: Final = {"mean": "mean", "basis": "components", "explained": "explained"}
"""Names of its arrays in a store, before `_<level>` -> of the attributes of `Basis`."""

_LEAST_VARIANCE: Final = 1e-10
"""Of a component that is whitened, as a share of all: below, it is rounding."""


class Projection(NamedTuple):
    """What `store.channels` and `store.whiten` ask for."""

    channels: int
    whiten: bool


@dataclass(frozen=True, eq=False)
class Basis:
    """Stored channels are `components @ (features - mean)`.

    Attributes:
        mean: (C,) float32.
        components: (N, C) float32, the first has the most variance; of length 1, or whitened.
        explained: (N,) float32, share of the sample's variance.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    explained: NDArray[np.float32]

    def arrays(self, level: str) -> dict[str, NDArray[np.float32]]:
        """Return its arrays by their names in a store."""
        return {f"{name}_{level}": getattr(self, of) for name, of in BASIS_ARRAYS.items()}

    @property
    def digest(self) -> str:
        """SHA-256 (64 hex) of all its numbers as little-endian float32."""
        return sha256(b"".join(array.tobytes() for array in self.arrays("").values()))

    def project(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Project features (C, h, w): (N, h, w) float32."""
        channels, *size = features.shape
        centred = features.reshape(channels, -1) - self.mean[:, None]
        projected: NDArray[np.float32] = (self.components @ centred).reshape(-1, *size)
        return projected


Bases: TypeAlias = Mapping[str, Basis]
"""level, in the image's own orientation -> its basis"""


def fit_basis(level: str, features: Iterable[NDArray[Any]], projection: Projection) -> Basis:
    """Find the principal components of a sample, at most C of features (C, h, w), float32.

    StoreError where features are not finite, or have fewer components than are to be whitened.
    """
    count, total, squares = 0, np.zeros(()), np.zeros(())
    with np.errstate(invalid="ignore", over="ignore"):
        for image in features:
            tokens = image.reshape(len(image), -1).astype(np.float64)  # (C, h w)
            count += tokens.shape[1]
            total = total + tokens.sum(axis=1)
            squares = squares + tokens @ tokens.T
        mean = total / count
        covariance = squares / count - np.outer(mean, mean)
    _require_finite(f"the principal components of {level}", covariance)
    variances, vectors = np.linalg.eigh(covariance)  # ascending
    share = np.maximum(variances[::-1], 0.0) / max(variances.clip(0.0).sum(), np.finfo(float).tiny)
    components, explained = vectors.T[::-1][: projection.channels], share[: projection.channels]
    # its sign is arbitrary: the largest number of each is positive
    largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], axis=1)
    components = components * np.sign(largest)
    if projection.whiten:
        least = int(np.count_nonzero(explained > _LEAST_VARIANCE))
        if least < projection.channels:
            raise StoreError(
                f"{level} has {least} principal components, not {projection.channels} that can be "
                f"whitened: lower store.channels to {least}, or set store.whiten to false"
            )
        components = components / np.sqrt(variances[::-1][: projection.channels, None])
    return Basis(*(np.ascontiguousarray(a, "<f4") for a in (mean, components, explained)))
