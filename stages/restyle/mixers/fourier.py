"""Fourier domain adaptation: low frequencies get the style's amplitude and keep their phase.

After Yang and Soatto, "FDA: Fourier Domain Adaptation for Semantic Segmentation" (arXiv
2004.05498).
"""

from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.fields import Fraction
from stages.restyle.mixers.mixer import Mixer


class Fourier(Mixer):
    """Fourier domain adaptation (FDA)."""

    kind: Literal["fourier"] = Field(description="Low frequencies get the style's amplitude.")
    strength: Fraction = Field(
        description="Share of the way from the content's amplitude to the style's; 0 is none "
        "(paper 1)."
    )
    band: Annotated[float, Field(gt=0, le=0.5)] = Field(
        description="Highest frequency that is swapped, as a share of the shorter side (paper "
        "0.01, 0.05 and 0.09); at least the mean colour and one wave."
    )

    def mix(self, content: NDArray[np.uint8], style: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Swap amplitudes of a square of low frequencies, channel by channel."""
        if not self.strength:
            return content.copy()
        height, width, _ = content.shape
        resized = cv2.resize(style, (width, height), interpolation=cv2.INTER_AREA)
        spectrum, wanted = (np.fft.rfft2(image, axes=(0, 1)) for image in (content, resized))
        most = max(int(min(height, width) * self.band), 1)
        rows = np.flatnonzero(np.abs(np.fft.fftfreq(height, 1 / height)) <= most)
        low = np.ix_(rows, np.arange(min(most + 1, spectrum.shape[1])))
        amplitude = np.abs(spectrum[low])
        mixed = amplitude + self.strength * (np.abs(wanted[low]) - amplitude)
        spectrum[low] = mixed * np.exp(1j * np.angle(spectrum[low]))
        rgb = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1))
        return np.rint(np.clip(rgb, 0, 255)).astype(np.uint8)
