"""Transport of colour and of contrast: both are statistics, so that shapes stay where they are.

Colours move by the linear map that turns a Gaussian of the content's mean and covariance into one
of the style's at least cost (Monge's; Pitie and Kokaram 2007), in the logarithm of RGB, where a
change of light is a shift. Then each octave of a Laplacian pyramid (Burt and Adelson 1983) is
scaled to the style's contrast, within bounds: a smooth image has no texture to bring out, and what
would be brought out of a dark one is noise.

H W pixels.
"""

from typing import Annotated, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.fields import Fraction
from stages.restyle.mixers.mixer import Mixer

_OFFSET: Final = 4.0
"""Added before the logarithm: the least steps of dark pixels stay small."""
_WHITE: Final = np.float32(np.log(256 + _OFFSET))
"""More is clipped anyhow; a light in the dark may be moved beyond what has an exponential."""
_RIDGE: Final = 1e-4
"""Added to variances of the logarithm: a grey image has a covariance of no rank."""


class Statistics(Mixer):
    """Transport of mean and covariance of colours, and of contrast by octave."""

    kind: Literal["statistics"] = Field(description="Transport of colours and contrast.")
    strength: Fraction = Field(description="Share of the way to the style; 0 is none.")
    octaves: Annotated[int, Field(ge=0, le=8)] = Field(
        description="Octaves, from the finest, whose contrast is scaled; 0 moves colours alone."
    )
    max_gain: Annotated[float, Field(ge=1, le=16)] = Field(
        description="Contrast of an octave is multiplied by this at most, and divided by it."
    )

    def mix(self, content: NDArray[np.uint8], style: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Move colours, then scale contrast by octave."""
        if not self.strength:
            return content.copy()
        log, wanted = _log(content), _log(style)
        mean, other = log.mean((0, 1)), wanted.mean((0, 1))
        moved = (log - mean) @ transport(covariance(log), covariance(wanted)) + other
        log += np.float32(self.strength) * (moved.astype(np.float32) - log)
        octaves = min(
            self.octaves, *(int(np.log2(min(image.shape[:2]))) for image in (log, wanted))
        )
        *bands, rest = pyramid(log, octaves)
        *finer, _ = pyramid(wanted, octaves)
        for band, like in zip(reversed(bands), reversed(finer), strict=True):
            here, there = float(band.std()), float(like.std())
            gain = min(max(there / here, 1 / self.max_gain), self.max_gain) if here else 1.0
            rest = _doubled(rest, band) + np.float32(gain**self.strength) * band
        rgb = np.exp(np.minimum(rest, _WHITE)) - _OFFSET
        return np.rint(np.clip(rgb, 0, 255)).astype(np.uint8)


def covariance(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the covariance (3, 3) of an image's (H, W, 3) colours."""
    return np.cov(pixels.reshape(-1, 3), rowvar=False, bias=True) + _RIDGE * np.eye(3)


def transport(covariance: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Monge's map (3, 3), symmetric, between Gaussians of these covariances (3, 3)."""
    root = _root(covariance)
    inverse = np.linalg.inv(root)
    return inverse @ _root(root @ wanted @ root) @ inverse


def pyramid(image: NDArray[np.float32], octaves: int) -> list[NDArray[np.float32]]:
    """Split an image (H, W, 3) into octaves, the finest first, and what is left, the smallest."""
    parts = []
    for _ in range(octaves):
        smaller: NDArray[np.float32] = cv2.pyrDown(image)
        parts.append(image - _doubled(smaller, image))
        image = smaller
    return [*parts, image]


def _doubled(image: NDArray[np.float32], like: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width, _ = like.shape
    larger: NDArray[np.float32] = cv2.pyrUp(image, dstsize=(width, height))
    return larger


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the square root of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    root: NDArray[np.float64] = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root


def _log(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    log: NDArray[np.float32] = np.log(rgb.astype(np.float32) + np.float32(_OFFSET))
    return log
