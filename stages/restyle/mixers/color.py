"""Colour transfer: mean and spread of each channel of CIELAB become those of the style.

After Reinhard et al., "Color Transfer between Images" (2001), whose space is l-alpha-beta.
"""

from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.fields import Fraction
from stages.restyle.mixers.mixer import Mixer

_LEAST: Final = 1e-3
"""Least spread that is scaled, in CIELAB units: a flat channel has no contrast to match."""


class Color(Mixer):
    """Colour transfer in CIELAB."""

    kind: Literal["color"] = Field(description="Mean and spread of CIELAB's channels.")
    strength: Fraction = Field(description="Share of the way to the style's colours; 0 is none.")

    def mix(self, content: NDArray[np.uint8], style: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Match mean and standard deviation of L*, a* and b*."""
        if not self.strength:
            return content.copy()
        lab, wanted = _to_lab(content), _to_lab(style)
        mean, spread = lab.mean((0, 1)), lab.std((0, 1))
        gain = np.where(spread > _LEAST, wanted.std((0, 1)) / np.maximum(spread, _LEAST), 1)
        matched = (lab - mean) * gain + wanted.mean((0, 1))
        mixed = lab + self.strength * (matched - lab)
        rgb = cv2.cvtColor(mixed.astype(np.float32), cv2.COLOR_LAB2RGB)
        mixed_rgb: NDArray[np.uint8] = np.rint(255 * np.clip(rgb, 0, 1)).astype(np.uint8)
        return mixed_rgb


def _to_lab(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    lab: NDArray[np.float32] = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return lab
