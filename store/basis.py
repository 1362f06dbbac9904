"""Principal components of a level, which a store may hold in place of the teacher's channels.

They are fixed on a sample of images before the first shard is written, and lie beside the level.
"""

# C channels of the teacher, N of the store, h w tokens

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from store.codec import parse_floats
from store.errors import StoreError
from store.fingerprint import CRC_BYTES, sha256

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
    """Find the principal components of a sample.

    `features` are (C, h, w) of each image, float32; the projection is of at most C channels.

    Raises:
        StoreError: Features are not finite, or have fewer components than are to be whitened.
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
    if not np.isfinite(covariance).all():
        raise StoreError(
            f"the principal components of {level}: features are NaN or Inf; check the teacher's "
            "weights and precision"
        )
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


def parse_basis(mean: bytes, components: bytes, explained: bytes) -> Basis | None:
    """Read the content of the chunks of its arrays; None where they are damaged."""
    sizes = [(len(data) - CRC_BYTES) // 4 for data in (mean, explained)]
    shapes = ((sizes[0],), (sizes[1], sizes[0]), (sizes[1],))
    found = [
        parse_floats(data, shape)
        for data, shape in zip((mean, components, explained), shapes, strict=True)
    ]
    arrays = [array for array in found if array is not None and np.isfinite(array).all()]
    return Basis(*arrays) if len(arrays) == len(found) else None
