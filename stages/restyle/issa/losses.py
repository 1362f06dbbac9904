"""Losses of generator and encoder, and the networks that measure them."""

# B batch, C channels, S side of the image, D length of a latent, L latents of an image

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from stages.efficientnet_lite import MEAN, STD, EfficientNetLite, pretrained
from stages.restyle.issa.encoder import Encoded

SCALES: Final = 3
Features = Sequence[Sequence[Tensor]]
"""Maps of each layer of a discriminator, for each of its scales; the last are the scores."""

WEIGHTS: Final = {
    "pixels": 1.0,
    "perceptual": 10.0,
    "adversarial": 0.1,
    "features": 0.2,
    "noise": 0.1,
    "latent": 0.1,
}
"""Of the encoder's losses, as published."""

COOLDOWN: Final = (200_000, 500_000)
"""Images between which the latents' term falls to 0."""


class Perceptual(nn.Module):
    """Distance of images in features of EfficientNet-Lite0, unit vectors at each place: 0 to 4.

    Differs from ISSA: LPIPS compares VGG's features, weighted by what people see; this is not
    LPIPS, and its values are not LPIPS's.

    Args:
        network: Compares its maps at strides 4, 8 and 16; None: that with ImageNet weights.

    Raises:
        CheckpointError: The package of the weights is not installed.
    """

    def __init__(self, network: EfficientNetLite | None = None) -> None:
        super().__init__()
        self.network = (network or pretrained("lite0")).eval().requires_grad_(False)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Return the maps of images (B, 3, S, S), -1 to 1."""
        return list(self.network((image * 127.5 + 127.5 - MEAN) / STD)[:3])

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the distance of each pair: (B,)."""
        pairs = zip(self.maps(one), self.maps(other), strict=True)
        parts = [
            (F.normalize(a, eps=1e-6) - F.normalize(b, eps=1e-6)).square().sum(1).mean((1, 2))
            for a, b in pairs
        ]
        return torch.stack(parts).mean(0)


class PatchDiscriminator(nn.Module):
    """Three networks that score patches: of the image, its half and its quarter (pix2pixHD's)."""

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


def hinge(real: Features, made: Features) -> Tensor:
    """Return the patch discriminators' loss, a mean over scales."""
    pairs = zip(real, made, strict=True)
    return _mean([F.relu(1 - r[-1]).mean() + F.relu(1 + m[-1]).mean() for r, m in pairs])


def feature_matching(real: Features, made: Features) -> Tensor:
    """Return the mean distance of the maps before the scores, summed over layers."""
    pairs = zip(real, made, strict=True)
    return _mean(
        [
            _mean([(a.detach() - b).abs().mean() for a, b in zip(r, m, strict=True)][:-1])
            * (len(r) - 1)
            for r, m in pairs
        ]
    )


def cooled(images: int) -> float:
    """Return what remains of the latents' weight after so many images: 1, then falling to 0."""
    start, end = COOLDOWN
    return min(1.0, max(0.0, (end - images) / (end - start)))


def gradient_penalty(scores: Tensor, image: Tensor) -> Tensor:
    """Return R1 (arXiv 1801.04406) without its factor: the squared gradient at real images."""
    (gradient,) = torch.autograd.grad(scores.sum(), image, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def encoder_terms(
    images: Tensor,
    made: Tensor,
    encoded: Encoded,
    *,
    known: Tensor,
    kept: Tensor,
    distances: Tensor,
    found: tuple[Features, Features],
    seen: int,
) -> dict[str, Tensor]:
    """Return the weighted terms of the encoder's loss.

    Args:
        images: (2B, 3, S, S): real ones, then generated ones.
        made: Their reconstructions.
        encoded: Of all of them.
        known: Latents (B, L, D) of the generated ones.
        kept: Pixels (2B, 1, S, S) that count.
        distances: Perceptual ones (2B,) of images and reconstructions.
        found: The discriminator's features of the real images, and of their reconstructions.
        seen: Images before this step.
    """
    real, remade = found
    terms = {
        "pixels": ((images - made).square() * kept).mean(),
        "perceptual": distances.mean(),
        "adversarial": _mean([-scale[-1].mean() for scale in remade]),
        "features": feature_matching(real, remade),
        "noise": _mean([each.abs().mean() for each in encoded.maps]),
        "latent": F.mse_loss(encoded.w[len(known) :], known) * cooled(seen),
    }
    return {name: WEIGHTS[name] * term for name, term in terms.items()}


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([*values]).mean()
