"""Losses of generator and encoder, and the published weights of their sum."""

# B batch, C channels, S side of the image, D length of a latent, L latents of an image

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.efficientnet_lite import MEAN, STD, EfficientNetLite, pretrained
from stages.restyle.issa.encoder import Encoded, kept_pixels, masked
from stages.restyle.issa.generator import Maps

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


def pixel_loss(image: Tensor, made: Tensor, kept: Tensor) -> Tensor:
    """Return the squared error of the kept pixels, as a mean over all."""
    return ((image - made).square() * kept).mean()


def hinge(real: Features, made: Features) -> Tensor:
    """Return the patch discriminators' loss, a mean over scales."""
    pairs = zip(real, made, strict=True)
    return _mean([F.relu(1 - r[-1]).mean() + F.relu(1 + m[-1]).mean() for r, m in pairs])


def adversarial(made: Features) -> Tensor:
    """Return the adversarial loss of what made the images."""
    return _mean([-scale[-1].mean() for scale in made])


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


def magnitude(maps: Maps) -> Tensor:
    """Return the mean of the absolute values of both noise maps."""
    return _mean([each.abs().mean() for each in maps])


def cooled(images: int, cooldown: tuple[int, int]) -> float:
    """Return what remains of a weight after so many images: 1, falling from start to end to 0."""
    start, end = cooldown
    return min(1.0, max(0.0, (end - images) / (end - start)))


def gradient_penalty(scores: Tensor, image: Tensor) -> Tensor:
    """Return R1 (arXiv 1801.04406) without its factor: the squared gradient at real images."""
    (gradient,) = torch.autograd.grad(scores.sum(), image, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


@dataclass(frozen=True)
class EncoderLoss:
    """The encoder's loss, from the networks that it is measured by.

    Attributes:
        generate: Latents and noise maps -> images.
        discriminate: Images -> features.
        distance: Pairs of images -> perceptual distances.
        cooldown: Images after which the latents' term begins to fall, and after which it is 0.
    """

    generate: Callable[[Tensor, Maps], Tensor]
    discriminate: Callable[[Tensor], Features]
    distance: Callable[[Tensor, Tensor], Tensor]
    cooldown: tuple[int, int]

    def __call__(
        self,
        images: Tensor,
        encoded: Encoded,
        known: Tensor,
        *,
        masks: tuple[Tensor, Tensor],
        noise: Maps,
        seen: int,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return each weighted term, and the reconstructions (2B, 3, S, S).

        Args:
            images: (2B, 3, S, S): real ones, then generated ones.
            encoded: Of all of them.
            known: Latents (B, L, D) of the generated ones.
            masks: Patches that each map keeps.
            noise: What takes the place of the others.
            seen: Images before this step.
        """
        count = len(known)
        one, two = (
            masked(each, kept, drawn)
            for each, kept, drawn in zip(encoded.maps, masks, noise, strict=True)
        )
        made = self.generate(encoded.w, (one, two))
        features = self.discriminate(made[:count])
        terms = {
            "pixels": pixel_loss(images, made, kept_pixels(masks)),
            "perceptual": self.distance(images, made).mean(),
            "adversarial": adversarial(features),
            "features": feature_matching(self.discriminate(images[:count]), features),
            "noise": magnitude(encoded.maps),
            "latent": F.mse_loss(encoded.w[count:], known) * cooled(seen, self.cooldown),
        }
        return {name: WEIGHTS[name] * term for name, term in terms.items()}, made


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([*values]).mean()
