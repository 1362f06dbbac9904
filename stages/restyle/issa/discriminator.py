"""Discriminators: of whole images for the generator, of patches at three scales for the encoder."""

# B batch, C channels, S side of the image

from itertools import pairwise
from math import log2, sqrt
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from stages.restyle.issa.generator import EqualConv, EqualLinear, activate, width

SCALES: Final = 3


class Discriminator(nn.Module):
    """StyleGAN2's residual one; means of 2x2 take the place of its filters.

    Args:
        side: S, a power of two.
        channels: Most channels of a map.
    """

    def __init__(self, side: int, channels: int) -> None:
        super().__init__()
        sides = [2**power for power in range(int(log2(side)), 1, -1)]
        self.first = EqualConv(3, width(channels, side), 1)
        self.blocks = nn.ModuleList(
            _Residual(width(channels, a), width(channels, b)) for a, b in pairwise(sides)
        )
        self.last = EqualConv(channels + 1, channels, 3)
        self.hidden = EqualLinear(16 * channels, channels)
        self.score = EqualLinear(channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Score images (B, 3, S, S): (B,)."""
        x = activate(self.first(image))
        for block in self.blocks:
            x = block(x)
        spread = x.var(0, correction=0).add(1e-8).sqrt().mean()  # of the batch; few modes show
        x = torch.cat([x, spread.expand(len(x), 1, 4, 4)], 1)
        x = activate(self.last(x)).flatten(1)
        scores: Tensor = self.score(activate(self.hidden(x))).squeeze(1)
        return scores


class _Residual(nn.Module):
    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.one, self.two = EqualConv(ins, ins, 3), EqualConv(ins, outs, 3)
        self.skip = EqualConv(ins, outs, 1)

    def forward(self, x: Tensor) -> Tensor:
        skipped = self.skip(F.avg_pool2d(x, 2))
        x = F.avg_pool2d(activate(self.two(activate(self.one(x)))), 2)
        both: Tensor = (x + skipped) / sqrt(2)
        return both


class PatchDiscriminator(nn.Module):
    """Three networks that score patches: of the image, its half and its quarter (pix2pixHD's).

    Args:
        channels: Of the first layer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_patches(channels) for _ in range(SCALES))

    def forward(self, image: Tensor) -> list[list[Tensor]]:
        """Return the maps of each layer, for each scale; the last of them are the scores."""
        found = []
        for network in self.scales:
            assert isinstance(network, nn.ModuleList)
            maps = [image]
            for layer in network:
                maps.append(layer(maps[-1]))
            found.append(maps[1:])
            image = F.avg_pool2d(image, 3, stride=2, padding=1, count_include_pad=False)
        return found


def _patches(channels: int) -> nn.ModuleList:
    widths = [3, channels, 2 * channels, 4 * channels, 4 * channels]
    layers: list[nn.Module] = []
    for number, (ins, outs) in enumerate(pairwise(widths)):
        conv = nn.Conv2d(ins, outs, 4, stride=2 if number < 3 else 1, padding=2)
        norm = nn.InstanceNorm2d(outs) if number else nn.Identity()
        layers.append(nn.Sequential(spectral_norm(conv), norm, nn.LeakyReLU(0.2)))
    layers.append(spectral_norm(nn.Conv2d(widths[-1], 1, 4, padding=2)))
    return nn.ModuleList(layers)
