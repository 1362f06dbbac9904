"""The frames of an image and the arithmetic between them: pure functions.

raw --fit--> resized --pad right/bottom--> working --crop--> box --divide by stride--> tokens

Sizes are (height, width); the origin of every frame is its top left corner, so that a position in
the resized image is the same position in the working image.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from store.errors import ConfigError

_Scalar = TypeVar("_Scalar", bound=np.generic)

Size = tuple[int, int]
"""Height and width."""

WORKING_MULTIPLE_PX = 32
"""Working sides are multiples of the coarsest stride, of the backbone and of the teacher levels."""


def fit_size(size: Size, fit_px: tuple[int, int] | None) -> Size:
    """Scale a size, keeping its ratio, to the largest that fits in `fit_px`.

    The arithmetic is that of mmcv's `rescale_size`, rounding half up: GTA's 1052x1914
    in (1280, 720) becomes 704x1280.

    Args:
        size: (height, width) of the raw image.
        fit_px: The two sides to fit in; the longer one bounds the longer side, whatever the order.
            None keeps the size.

    Returns:
        (height, width) of the resized image, at least one pixel each.
    """
    if fit_px is None:
        return size
    height, width = size
    scale = min(max(fit_px) / max(size), min(fit_px) / min(size))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def working_size(resized: Size, at_least_px: int) -> Size:
    """Return the padded size: multiples of 32 that hold the resized image and the crop.

    Args:
        resized: (height, width) of the resized image.
        at_least_px: Side of the crop that must fit in.
    """
    height, width = (
        -(-max(side, at_least_px) // WORKING_MULTIPLE_PX) * WORKING_MULTIPLE_PX for side in resized
    )
    return height, width


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of an array's last two axes; the unit is that of the frame it lies in."""

    y: int
    x: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slice: `array[..., *box.slices]` cuts the box out."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    def to_tokens(self, stride: int) -> "Box":
        """Return the tokens under this box of working pixels, a pure slice of a level.

        Raises:
            ConfigError: A side or the origin is not a multiple of the stride.
        """
        return Box(*(to_tokens(px, stride) for px in (self.y, self.x, self.height, self.width)))


def crop_origin(
    rng: np.random.Generator, working: Size, crop_px: int, align_px: int
) -> tuple[int, int]:
    """Draw the origin of a square crop, uniformly among the aligned ones that keep it inside.

    Differs from SSR: origins are multiples of `align_px`, the official ones are any integer; so
    the tokens under a crop are whole tokens. The crop reaches both far borders, because working
    sides, crop and alignment divide each other.

    Args:
        rng: The only source of randomness.
        working: (height, width) of the working image.
        crop_px: Side of the crop, a multiple of `align_px`.
        align_px: Stride of the coarsest level in use.

    Returns:
        (y, x) of the crop's top left pixel.

    Raises:
        ConfigError: The crop is larger than the working image or not aligned.
    """
    to_tokens(crop_px, align_px)
    if crop_px > min(working):
        raise ConfigError(
            f"a crop of {crop_px}x{crop_px} does not fit in the working image of "
            f"{working[0]}x{working[1]}: run `ssr prepare` again, it pads images to the crop"
        )
    y, x = (int(rng.integers((side - crop_px) // align_px + 1)) * align_px for side in working)
    return y, x


def to_tokens(px: int, stride: int) -> int:
    """Convert a length or position in working pixels to tokens of a level.

    Raises:
        ConfigError: The length is not a whole number of tokens.
    """
    if px % stride:
        raise ConfigError(f"{px} px is not a multiple of {stride} px, the side of a token")
    return px // stride


def flip(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """Mirror left to right, along the last axis: windows (3, h, w), labels (h, w), tokens."""
    return np.ascontiguousarray(array[..., ::-1])
