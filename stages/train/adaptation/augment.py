"""Colour jitter and blur of mixed and masked images (DACS, arXiv 2007.08702).

The formulas are those of kornia 0.5.8, which official SSR pins: kornia's `adjust_*` functions still
compute its jitter, `ColorJitter` no longer does. B batch, H W pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from kornia.enhance import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation
from torch import Tensor
from torch.nn import functional as F

from stages.prepare.pixels import MEAN, STD

Operation = Literal["brightness", "contrast", "saturation", "hue"]
OPERATIONS: tuple[Operation, ...] = ("brightness", "contrast", "saturation", "hue")

SIGMA_PX = (0.15, 1.15)
"""Range of the blur's standard deviation; official SSR hard-codes it."""

_REACH_SIGMAS = 8
"""Weights beyond are below 2e-14 of the sum: float32 cannot tell the blur from the official one."""


@dataclass(frozen=True)
class JitterDraw:
    """One call of the jitter: a factor for each operation and image, one order for all.

    Attributes:
        factors: Float32 (B,) each; about 1 for brightness, contrast and saturation, about 0 for
            hue, which is in turns.
        order: The operations as they are applied.
    """

    factors: dict[Operation, Tensor]
    order: tuple[Operation, ...]


@dataclass(frozen=True)
class StrongDraw:
    """One call of the augmentation; None leaves a part out.

    Attributes:
        jitter: Factors and order of the colour jitter.
        sigma_px: Standard deviation of the blur.
    """

    jitter: JitterDraw | None
    sigma_px: float | None

    def of(self, rows: slice) -> "StrongDraw":
        """Factors of some images of the call."""
        if self.jitter is None:
            return self
        factors = {name: factor[rows] for name, factor in self.jitter.factors.items()}
        return StrongDraw(JitterDraw(factors, self.jitter.order), self.sigma_px)


def draw_jitter(rng: np.random.Generator, batch: int, strength: float) -> JitterDraw:
    """Draw factors within `strength` of no change, and the order of the operations."""
    shifts = rng.uniform(-strength, strength, (len(OPERATIONS), batch)).astype(np.float32)
    factors = {
        operation: torch.from_numpy(shift if operation == "hue" else 1 + shift)
        for operation, shift in zip(OPERATIONS, shifts, strict=True)
    }
    order = tuple(OPERATIONS[index] for index in rng.permutation(len(OPERATIONS)))
    return JitterDraw(factors, order)


def draw_strong(
    rng: np.random.Generator,
    batch: int,
    *,
    jitter_probability: float,
    jitter_strength: float,
    blur_probability: float,
    per_image: bool,
) -> list[StrongDraw]:
    """Draw one iteration's augmentation of a batch.

    Whether to jitter and whether to blur is decided once for the batch. Then the official code
    augments mixed images one by one (`per_image`), and the images of the masked branch in one call,
    so that these share the order of operations and the blur.

    Args:
        rng: Source of randomness.
        batch: Number of images.
        jitter_probability: 0.8 in the paper's runs. The official `color_jitter_probability: 0.2`
            is the threshold that a uniform draw must exceed.
        jitter_strength: Largest change of a factor; turns for hue.
        blur_probability: 0.5 in the paper's runs.
        per_image: Give each image its own draw.

    Returns:
        One draw for each image, or a single one for the batch; see `augment`.
    """
    jittered, blurred = rng.random() < jitter_probability, rng.random() < blur_probability
    calls, images = (batch, 1) if per_image else (1, batch)
    return [
        StrongDraw(
            draw_jitter(rng, images, jitter_strength) if jittered else None,
            rng.uniform(*SIGMA_PX) if blurred else None,
        )
        for _ in range(calls)
    ]


def augment(images: Tensor, draws: Sequence[StrongDraw]) -> Tensor:
    """Jitter, then blur normalised images (B, 3, H, W), each of the draws on an equal part of them.

    The jitter's arithmetic is in 0..1; the blur acts on normalised values again.
    """
    parts = images.chunk(len(draws))
    return torch.cat([_augment(part, draw) for part, draw in zip(parts, draws, strict=True)])


def _augment(images: Tensor, draw: StrongDraw) -> Tensor:
    if draw.jitter is not None:
        images = normalise(jitter_colors(denormalise(images), draw.jitter))
    if draw.sigma_px is not None:
        images = blur(images, draw.sigma_px)
    return images


def jitter_colors(images: Tensor, draw: JitterDraw) -> Tensor:
    """Apply the drawn operations to images (B, 3, H, W) in 0..1."""
    for operation in draw.order:
        factor = draw.factors[operation].to(images.device, non_blocking=True)
        images = _ADJUST[operation](images, factor)
    return images


# Brightness is additive, contrast a plain product without the mean, both clamped to 0..1;
# saturation scales S of HSV, hue turns H.
_ADJUST: dict[Operation, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda images, factor: adjust_brightness(images, factor - 1),
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": lambda images, turns: adjust_hue(images, turns * (2 * math.pi)),
}


def blur(images: Tensor, sigma_px: float) -> Tensor:
    """Blur images (B, C, H, W) with a Gaussian of one width on both axes, reflecting borders.

    One axis after the other, and only the taps that count in float32: at most 21 + 21 instead of
    the official 51 x 51, equal up to rounding. Weights are numbers of the host: nothing is sent.
    """
    for axis, official_px in zip((-1, -2), map(blur_side, images.shape[:-3:-1]), strict=True):
        images = _blur_axis(images, axis, _gaussian(sigma_px, official_px))
    return images


def _gaussian(sigma_px: float, longest_px: int) -> list[float]:
    """Give the weights of a Gaussian, an odd number of them, with sum 1."""
    reach = min(longest_px // 2, math.ceil(_REACH_SIGMAS * sigma_px))
    weights = [math.exp(-((x / sigma_px) ** 2) / 2) for x in range(-reach, reach + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


def _blur_axis(images: Tensor, axis: int, weights: list[float]) -> Tensor:
    # Shifted sums, since a convolution of three channels takes four times as long on the CPU.
    reach, side = len(weights) // 2, images.shape[axis]
    padding = (reach, reach, 0, 0) if axis == -1 else (0, 0, reach, reach)
    padded = F.pad(images, padding, mode="reflect")
    blurred = padded.narrow(axis, 0, side) * weights[0]
    for tap, weight in enumerate(weights[1:], start=1):
        blurred.add_(padded.narrow(axis, tap, side), alpha=weight)
    return blurred


def blur_side(side_px: int) -> int:
    """Give the odd kernel side for an image side: a tenth of it, 51 for 512."""
    tenth = math.ceil(0.1 * side_px)
    return tenth - 1 + tenth % 2


def denormalise(images: Tensor) -> Tensor:
    """Bring normalised images (B, 3, H, W) to 0..1."""
    return (images * _channels(STD, images) + _channels(MEAN, images)) / 255


def normalise(images: Tensor) -> Tensor:
    """Bring images (B, 3, H, W) in 0..1 to mean 0 and deviation 1 of ImageNet."""
    return (images * 255 - _channels(MEAN, images)) / _channels(STD, images)


def _channels(values: Sequence[float], images: Tensor) -> Tensor:
    # Built on the host and sent without waiting: a step must not stall for three numbers.
    return torch.tensor(values).view(3, 1, 1).to(images.device, non_blocking=True)
