"""The mixers, which give an image the style of another.

A new one is a module here with its section of the params, which is a `Mixer`, and a place in
`MixerConfig`. Modules are imported with the params: without torch.
"""

from typing import Annotated

from pydantic import Field

from stages.restyle.mixers.color import Color
from stages.restyle.mixers.fourier import Fourier
from stages.restyle.mixers.issa import Issa
from stages.restyle.mixers.jitter import Jitter
from stages.restyle.mixers.statistics import Statistics

MixerConfig = Annotated[Statistics | Fourier | Color | Jitter | Issa, Field(discriminator="kind")]
"""Section `restyle.mixer`."""
