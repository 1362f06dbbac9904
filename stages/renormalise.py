"""Pixels in a network's own normalisation, from those of all images here."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stages.prepare.pixels import MEAN, STD


class Renormalise(nn.Module):
    """Turn pixels (B, 3, H, W) normalised as all images here into a network's (value - mean) / std.

    Values are of 0 to 255. Padding, which is 0 here, becomes what the same mean colour is there.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        channels = list(zip(MEAN, STD, mean, std, strict=True))
        factor = torch.tensor([ours / theirs for _, ours, _, theirs in channels])
        shift = torch.tensor([(ours - theirs) / by for ours, _, theirs, by in channels])
        self.register_buffer("factor", factor.view(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return pixels (B, 3, H, W)."""
        return torch.addcmul(self.get_buffer("shift"), pixels, self.get_buffer("factor"))
