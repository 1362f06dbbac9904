"""Networks of StyleGAN2's type (arXiv 1912.04958), in plain PyTorch, of square images.

Differs from StyleGAN2: bilinear upsampling before the convolution and means of 2x2 take the place
of its filters, four mapping layers that of eight; nothing regularises path lengths.
"""

# B batch, C channels, S side of the image, D length of a latent, L latents of an image

from itertools import pairwise
from math import log2, sqrt
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE: Final = 0.2
MAPS_STRIDE: Final = 4
"""Pixels of a cell of the noise maps: they enter the block of this stride."""

Maps = tuple[Tensor, Tensor]
"""Noise maps of the two convolutions of a block, (B, C, S/4, S/4) each."""


def width(channels: int, side: int) -> int:
    """Return the channels of a map of this side."""
    return min(channels, max(4, channels * 64 // side))


def activate(x: Tensor) -> Tensor:
    """Apply a leaky ReLU that keeps the variance."""
    return F.leaky_relu(x, SLOPE) * sqrt(2)


class EqualLinear(nn.Linear):
    """A linear layer at an equalised learning rate: weights of variance 1 are scaled when used."""

    def __init__(self, ins: int, outs: int, *, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__(ins, outs)
        self._rate = rate
        nn.init.normal_(self.weight, std=1 / rate)
        nn.init.constant_(self.bias, bias / rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ins) to (B, outs)."""
        scale = self._rate / sqrt(self.in_features)
        return F.linear(x, self.weight * scale, self.bias * self._rate)


class EqualConv(nn.Module):
    """A convolution at an equalised learning rate that keeps the side."""

    def __init__(self, ins: int, outs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outs, ins, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outs))

    def scaled(self) -> Tensor:
        """Return the weights as they are used."""
        return self.weight / sqrt(self.weight[0].numel())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ins, h, w) to (B, outs, h, w)."""
        return F.conv2d(x, self.scaled(), self.bias, padding=self.weight.shape[-1] // 2)


class StyledConv(nn.Module):
    """A convolution whose input channels are scaled by a latent (section 2.2, equations 1 to 3).

    Its output has the side; so has its input, unless it doubles.
    """

    def __init__(
        self, ins: int, outs: int, latent: int, side: int, *, doubles: bool = False
    ) -> None:
        super().__init__()
        self.scales = EqualLinear(latent, ins, bias=1)
        self.conv = EqualConv(ins, outs, 3)
        self.strength = nn.Parameter(torch.zeros(()))
        self.noise: Tensor
        self.register_buffer("noise", torch.randn(1, 1, side, side))
        self._doubles = doubles

    def forward(self, x: Tensor, latent: Tensor, noise: Tensor | None) -> Tensor:
        """Return (B, C, side, side), activated.

        Args:
            x: (B, C_in, h, w).
            latent: (B, D).
            noise: Added as it is, without the learned strength; None: the constant noise.
        """
        if self._doubles:
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
        weight, scales = self.conv.scaled(), self.scales(latent)
        energy = scales.square() @ weight.square().sum((2, 3)).T
        x = F.conv2d(x * scales[..., None, None], weight, padding=1)
        x = x * torch.rsqrt(energy + 1e-8)[..., None, None]
        x = x + (self.strength * self.noise if noise is None else noise)
        return activate(x + self.conv.bias[:, None, None])


class ToColor(nn.Module):
    """Colours of a map: a convolution of 1x1 scaled by a latent, without demodulation."""

    def __init__(self, ins: int, latent: int) -> None:
        super().__init__()
        self.scales = EqualLinear(latent, ins, bias=1)
        self.conv = EqualConv(ins, 3, 1)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, 3, h, w), by latents (B, D)."""
        colors: Tensor = self.conv(x * self.scales(latent)[..., None, None])
        return colors


class Generator(nn.Module):
    """Mapping and synthesis; the side is a power of two, channels are the most of a map."""

    def __init__(self, side: int, channels: int, latent: int) -> None:
        super().__init__()
        self.side, self.latents, self.latent = side, 2 * int(log2(side)) - 2, latent
        sides = [2**power for power in range(2, int(log2(side)) + 1)]
        self.map_channels = width(channels, side // MAPS_STRIDE)
        self.mapping = nn.ModuleList(EqualLinear(latent, latent, rate=0.01) for _ in range(4))
        self.constant = nn.Parameter(torch.randn(1, channels, 4, 4))
        self.convs, self.colors = nn.ModuleList(), nn.ModuleList()
        ins = channels
        for each in sides:
            outs = width(channels, each)
            if each > 4:
                self.convs.append(StyledConv(ins, outs, latent, each, doubles=True))
            self.convs.append(StyledConv(outs, outs, latent, each))
            self.colors.append(ToColor(outs, latent))
            ins = outs

    def style(self, z: Tensor) -> Tensor:
        """Map noise (B, D) to latents (B, D)."""
        w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            w = activate(layer(w))
        return w

    def repeated(self, w: Tensor) -> Tensor:
        """Give all layers one latent: (B, D) to (B, L, D)."""
        return w[:, None].expand(-1, self.latents, -1)

    def forward(
        self, w: Tensor, *, maps: Maps | None = None, noise: torch.Generator | None = None
    ) -> Tensor:
        """Return images (B, 3, S, S), -1 to 1 and somewhat beyond.

        Args:
            w: (B, L, D).
            maps: Take the place of the noise in the block of stride 4.
            noise: Draws the noise of all other layers; None: it is constant.
        """
        x: Tensor = self.constant.expand(len(w), -1, -1, -1)
        image: Tensor | None = None
        for number, conv in enumerate(self.convs):
            assert isinstance(conv, StyledConv)
            side = conv.noise.shape[-1]
            given = None
            if maps is not None and side == self.side // MAPS_STRIDE:
                given = maps[1 - number % 2]  # odd ones double
            elif noise is not None:
                drawn = torch.randn(len(w), 1, side, side, generator=noise).to(w)
                given = conv.strength * drawn
            x = conv(x, w[:, number], given)
            if number % 2 == 0:
                colors = self.colors[number // 2](x, w[:, number + 1])
                if image is None:
                    image = colors
                else:
                    image = F.interpolate(image, scale_factor=2, mode="bilinear") + colors
        assert image is not None, "there is a block at least"
        return image


class Discriminator(nn.Module):
    """Residual network that scores images; side and channels as of `Generator`."""

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
