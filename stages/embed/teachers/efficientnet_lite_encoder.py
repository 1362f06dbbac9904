"""EfficientNet-Lite on tiles: three strides and their hypercolumn in one pass."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.efficientnet_lite import MEAN, STD, EfficientNetLite
from stages.renormalise import Renormalise


class Pyramid(nn.Module):
    """The network from tiles normalised as the student's to the maps of its levels.

    Args:
        network: with its weights.
        levels: names of its strides 8, 16 and 32, and of all three on the grid of the first.
    """

    def __init__(self, network: EfficientNetLite, levels: Sequence[str]) -> None:
        super().__init__()
        self.renormalise = Renormalise((MEAN,) * 3, (STD,) * 3)
        self.network = network
        self.levels = levels

    def forward(self, tiles: Tensor) -> Mapping[str, Tensor]:
        """Return each level (B, C, h, w) of tiles (B, 3, side, side)."""
        _, fine, *coarse = self.network(self.renormalise(tiles))
        resized = (
            F.interpolate(map_, fine.shape[2:], mode="bilinear", align_corners=False)
            for map_ in coarse
        )
        maps = (fine, *coarse, torch.cat([fine, *resized], dim=1))
        return dict(zip(self.levels, maps, strict=True))
