"""Mixer: what every section `restyle.mixer` does."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.fields import Section


class Mixer(Section):
    """A way to give an image the style of another; a kind adds `kind` and its keys."""

    @property
    def identity(self) -> dict[str, Any]:
        """All that mixed pixels depend on beside the images, in JSON's types.

        A mixer that reads files names them by their hashes here.
        """
        return self.model_dump(mode="json")

    def made(self, identity: Mapping[str, Any]) -> bool:
        """Tell whether images of this identity are this mixer's.

        One that reads files trusts the identity where they are absent, as on a machine that only
        trains.
        """
        return self.identity == identity

    @abstractmethod
    def mix(self, content: NDArray[np.uint8], style: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Show the content in the style of another image.

        Several threads call it at once. The same arguments give the same pixels.

        Args:
            content: RGB, (H, W, 3).
            style: RGB, (h, w, 3), of any size.

        Returns:
            RGB, (H, W, 3): what lies where in the content lies there, so that its label holds.

        Raises:
            CheckpointError: Weights that it needs are missing or damaged.
        """
