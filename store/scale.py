"""One scale per channel for the codecs of 8 bits: estimated once, fixed before the first shard."""

# C channels, h w tokens

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from store.codec import HIGHEST_CODE
from store.errors import StoreError
from store.fingerprint import crc32c_is_sound, sha256
from store.spec import ImageEntry, StoreSpec

SAMPLE_IMAGES: Final = 16
"""Images of the sample: at stride8 of Cityscapes' size some 200,000 tokens."""

HEADROOM: Final = 1.25
"""Share of the sample's peak that fits: a clipped number costs a token more than coarser codes."""

_MOST: Final = 2.0**16
"""Above any scale of numbers that were float16 once."""

Scales = Mapping[str, NDArray[np.float32]]
"""level -> (C,) float32, greater than zero"""


def scale_sample(images: Sequence[ImageEntry]) -> tuple[ImageEntry, ...]:
    """Choose the images that scales are estimated from: spread evenly, always the same ones."""
    count = min(SAMPLE_IMAGES, len(images))
    return tuple(images[n * len(images) // count] for n in range(count))


def estimate_scale(features: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    """Return the scale (C,) under which no number of a sample is clipped, with some headroom.

    A channel that is zero throughout gets the scale of one whose largest number is 1.

    Args:
        features: (C, h, w) of each image, float32 or float16, finite.
    """
    with np.errstate(over="ignore"):  # what is too large becomes Inf, which `check_scale` refuses
        peaks = [np.abs(image.astype(np.float16)).max(axis=(1, 2)) for image in features]
    peak: NDArray[np.float32] = np.max(peaks, axis=0).astype(np.float32)
    peak[peak == 0] = 1.0
    return peak * np.float32(HEADROOM / HIGHEST_CODE)


def check_scale(level: str, scale: NDArray[Any], channels: int) -> NDArray[np.float32]:
    """Return a scale as it is stored.

    Raises:
        StoreError: Its shape is wrong, or it is not positive and finite throughout.
    """
    stored = np.ascontiguousarray(scale, "<f4")
    if stored.shape != (channels,):
        raise StoreError(f"the scale of {level} has shape {stored.shape}, expected ({channels},)")
    useless = channels - int(np.count_nonzero(np.isfinite(stored) & (stored > 0)))
    if useless:
        raise StoreError(
            f"the scale of {level}: {useless} of {channels} channels are NaN, Inf or not greater "
            "than 0; check the teacher's weights and precision"
        )
    return stored


def scale_name(level: str) -> str:
    """Return the name of the array of a level's scale."""
    return f"scale_{level}"


def scale_file(level: str) -> str:
    """Return the POSIX path inside a store of the one chunk of a level's scale."""
    return f"{scale_name(level)}/c.0"


def parse_scale(data: bytes, channels: int) -> NDArray[np.float32] | None:
    """Read the content of a scale's chunk; None where it is damaged."""
    if len(data) != 4 * channels + 4 or not crc32c_is_sound(np.frombuffer(data, np.uint8)):
        return None
    scale = np.frombuffer(data[:-4], "<f4")
    return scale if np.all((scale > 0) & (scale < _MOST)) else None


def level_fingerprint(spec: StoreSpec, level: str, scales: Scales) -> str:
    """Return the fingerprint of a level, with its scale where it has one."""
    scale = scales.get(level)
    return spec.level_fingerprint(level, None if scale is None else sha256(scale.tobytes()))
