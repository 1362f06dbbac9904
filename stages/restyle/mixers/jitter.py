"""Jitter of brightness, contrast and saturation: the control of a mixer that reads its style.

After torchvision's `ColorJitter` without hue: the factors are uniform, their order is random.
"""

from hashlib import sha256
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from pydantic import Field

from stages.fields import Fraction
from stages.restyle.mixers.mixer import Mixer


class Jitter(Mixer):
    """Brightness, contrast and saturation, each by a random factor; no style is taken."""

    kind: Literal["jitter"] = Field(description="Random brightness, contrast and saturation.")
    strength: Fraction = Field(
        description="Factors are drawn from 1 - strength to 1 + strength; 0 is none."
    )

    def mix(self, content: NDArray[np.uint8], style: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Multiply by factors that a hash of both images draws, so that a pair has its own."""
        digest = sha256(content.tobytes() + style.tobytes()).digest()
        rng = np.random.default_rng(int.from_bytes(digest))
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        factors = rng.uniform(1 - self.strength, 1 + self.strength, len(enhancers))
        image = Image.fromarray(content)
        for place in rng.permutation(len(enhancers)):
            image = enhancers[place](image).enhance(float(factors[place]))
        return np.array(image)
