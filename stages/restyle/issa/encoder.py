"""Masked noise encoder: an image becomes latents, its style, and two noise maps, its content.

Differs from ISSA: a small ResNet with heads of adaptive pooling, for any side, takes the place of a
ResNet-50 with strided heads (354 million weights); latents are predicted as offsets from the mean
one; no input code, which ISSA calls optional, and so no KL term.
"""

# B batch, C channels, S side of the image, D length of a latent, L latents, N patches of a map

from itertools import pairwise
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ResNetBackbone, ResNetConfig

from stages.restyle.issa.generator import MAPS_STRIDE, Generator, Maps

PATCH: Final = 4
"""Cells of the noise maps along a masked patch."""

_COARSE, _MEDIUM = 3, 4  # latents from strides 16 and 8; the others are from 4
_POOLED = 4


class Encoded(NamedTuple):
    """Style (B, L, D) and content of images."""

    w: Tensor
    maps: Maps


class Encoder(nn.Module):
    """ResNet and feature pyramid, a head for each latent and for each noise map of a generator.

    `mean` is the generator's mean latent (D,), `channels` are those of the pyramid.
    """

    def __init__(self, generator: Generator, mean: Tensor, channels: int) -> None:
        super().__init__()
        widths = [channels * factor for factor in (1, 2, 4, 8)]
        config = ResNetConfig(
            embedding_size=channels,
            hidden_sizes=widths,
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )
        self.backbone = ResNetBackbone(config)
        self.lateral = nn.ModuleList(nn.Conv2d(each, channels, 1) for each in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))
        self.mean: Tensor
        self.register_buffer("mean", mean.clone())
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(_POOLED),
                nn.Flatten(),
                nn.Linear(_POOLED**2 * channels, 4 * channels),
                nn.LeakyReLU(0.01),
                nn.Linear(4 * channels, generator.latent),
            )
            for _ in range(generator.latents)
        )
        outs = generator.map_channels
        self.maps = nn.ModuleList(_map_head(channels, outs) for _ in range(2))

    def forward(self, image: Tensor) -> Encoded:
        """Encode images (B, 3, S, S), -1 to 1."""
        stages = self.backbone(image).feature_maps  # strides 4, 8, 16, 32
        x = self.lateral[3](stages[3])
        pyramid = []
        for number in (2, 1, 0):
            x = F.interpolate(x, size=stages[number].shape[2:], mode="bilinear")
            x = x + self.lateral[number](stages[number])
            pyramid.append(self.smooth[number](x))
        at_16, at_8, at_4 = pyramid
        levels = [at_16] * _COARSE + [at_8] * _MEDIUM + [at_4] * len(self.heads)
        latents = [head(level) for head, level in zip(self.heads, levels, strict=False)]
        first, second = (head(at_4) for head in self.maps)
        return Encoded(self.mean + torch.stack(latents, 1), (first, second))


def _map_head(ins: int, outs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise([ins] * 5 + [outs]):
        conv = nn.Conv2d(a, b, 1)
        nn.init.kaiming_normal_(conv.weight, a=0.01)  # by default, each layer shrinks the maps
        layers += [conv, nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers)


def draw_mask(batch: int, side: int, share: float, rng: torch.Generator) -> Tensor:
    """Choose the patches of a map that are kept: bool (B, 1, side/4, side/4), as many in each.

    The map has S cells along a side; `share`, rounded to patches, is not kept.
    """
    patches = (side // PATCH) ** 2
    dropped = round(share * patches)
    order = torch.rand(batch, patches, generator=rng).argsort(1)
    return (order >= dropped).view(batch, 1, side // PATCH, side // PATCH)


def masked(content: Tensor, kept: Tensor, noise: Tensor) -> Tensor:
    """Replace patches of a map (B, C, h, w) by noise of its shape; kept as of `draw_mask`."""
    return torch.where(_enlarged(kept, PATCH), content, noise)


def kept_pixels(masks: tuple[Tensor, Tensor]) -> Tensor:
    """Return the pixels (B, 1, S, S) that both maps keep."""
    return _enlarged(masks[0] & masks[1], PATCH * MAPS_STRIDE)


def _enlarged(mask: Tensor, factor: int) -> Tensor:
    return mask.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
