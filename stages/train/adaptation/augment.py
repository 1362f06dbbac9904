"""What images go through: ClassMix, colour jitter, blur and hidden blocks.

ClassMix (arXiv 2007.07936) pastes the pixels of some source classes onto target images; jitter and
blur are of DACS (arXiv 2007.08702), hidden blocks of MIC (arXiv 2212.01322).

The formulas are those of kornia 0.5.8, which official SSR pins: kornia's `adjust_*` functions still
compute its jitter, `ColorJitter` no longer does. B batch, C channels, H W pixels, h w tokens, g
blocks a side. Masks of ClassMix are bool (B, 1, H, W), true for source.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from kornia.enhance import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation
from torch import Tensor
from torch.nn import functional as F

from stages.prepare.geometry import Size
from stages.prepare.pixels import MEAN, STD
from stages.train.config import SelfTrainingConfig
from stages.train.crops import Rng
from store.errors import ConfigError

Operation = Literal["brightness", "contrast", "saturation", "hue"]
OPERATIONS: tuple[Operation, ...] = ("brightness", "contrast", "saturation", "hue")

ClassPool = Literal["batch", "image"]
LABEL_VALUES = 256
"""Labels are bytes: class ids and 255 for ignore."""

SIGMA_PX = (0.15, 1.15)
"""Range of the blur's standard deviation; official SSR hard-codes it."""

_REACH_SIGMAS = 8
"""Weights beyond are below 2e-14 of the sum: float32 cannot tell the blur from the official one."""


def draw_classes(rng: Rng, labels: Tensor, pool: ClassPool) -> list[list[int]]:
    """Draw for each image the half of the classes that it pastes.

    Args:
        rng: Source of randomness.
        labels: Source labels (B, H, W). Keep them on the CPU: the number of classes decides what is
            drawn, and asking a GPU for it would stall the step.
        pool: `batch` draws from the classes of the whole batch, as official SSR does, so that a
            drawn class may be absent from the image; `image` from its own classes.

    Returns:
        ceil(n / 2) of n classes for each image. Ignore (255) is a class like any other.
    """
    if pool == "batch":
        pools = [np.unique(labels.numpy())] * len(labels)
    else:
        pools = [np.unique(image.numpy()) for image in labels]
    draws = [rng.choice(len(ids), (len(ids) + 1) // 2, replace=False) for ids in pools]
    return [ids[draw].tolist() for ids, draw in zip(pools, draws, strict=True)]


def class_mask(labels: Tensor, classes: Sequence[Sequence[int]]) -> Tensor:
    """Mark the pixels of labels (B, H, W), int64, that are of their image's classes."""
    chosen = torch.zeros(len(classes), LABEL_VALUES, dtype=torch.bool)
    for row, ids in zip(chosen, classes, strict=True):
        row[list(ids)] = True
    table = chosen.to(labels.device, non_blocking=True)  # (B, 256)
    return table.gather(1, labels.flatten(1)).view_as(labels).unsqueeze(1)


def mix(mask: Tensor, source: Tensor | float, target: Tensor) -> Tensor:
    """Take `source` where the mask is set and `target` elsewhere.

    Both are images (B, C, H, W), or labels or weights (B, H, W); `source` may be one value.
    """
    return torch.where(mask if target.ndim == mask.ndim else mask.squeeze(1), source, target)


def mix_features(
    mask: Tensor, source: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Mix teacher features of every level as the pixels below them were mixed.

    Differs from SSR: official SSR runs SAM on the mixed, jittered and blurred image. Here stored
    features of the two clean images are blended, each token by its share of source pixels. Both
    are level -> (B, C, h, w); h and w divide H and W.
    """
    mixed = {}
    for level, features in source.items():
        stride_px = mask.shape[-1] // features.shape[-1]
        share = F.avg_pool2d(mask.float(), stride_px)  # (B, 1, h, w)
        mixed[level] = torch.lerp(target[level], features, share.to(features.dtype))
    return mixed


@dataclass(frozen=True)
class JitterDraw:
    """One call of the jitter: a factor for each operation and image, one order for all.

    Factors are float32 (B,), about 1 for brightness, contrast and saturation, about 0 for hue,
    which is in turns.
    """

    factors: dict[Operation, Tensor]
    order: tuple[Operation, ...]


@dataclass(frozen=True)
class StrongDraw:
    """One call of the augmentation: jitter, and deviation of the blur; None leaves a part out."""

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
    rng: np.random.Generator, batch: int, config: SelfTrainingConfig, *, per_image: bool
) -> list[StrongDraw]:
    """Draw one iteration's augmentation of a batch.

    Whether to jitter and whether to blur is decided once for the batch. Then the official code
    augments mixed images one by one (`per_image`), and the images of the masked branch in one call,
    so that these share the order of operations and the blur.

    Returns:
        One draw for each image, or a single one for the batch; see `augment`.
    """
    jittered = rng.random() < config.jitter_probability
    blurred = rng.random() < config.blur_probability
    calls, images = (batch, 1) if per_image else (1, batch)
    return [
        StrongDraw(
            draw_jitter(rng, images, config.jitter_strength) if jittered else None,
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


def draw_blocks(rng: np.random.Generator, batch: int, size_px: Size, block_px: int) -> Tensor:
    """Draw a uniform number in [0, 1) for each block of each image: float32 (B, 1, gH, gW).

    The grid has round(side / block) blocks, so that they become uneven where the block does not
    divide the side. Python rounds halves to even here, as it does in the official code.

    Raises:
        ConfigError: A block is more than twice as large as the image.
    """
    grid = [round(side / block_px) for side in size_px]
    if 0 in grid:
        raise ConfigError(
            f"masking: a block of {block_px} px does not fit a crop of {size_px[0]}x{size_px[1]} "
            f"px; set train.masking.block_px to {min(size_px)} or less"
        )
    return torch.from_numpy(rng.random((batch, 1, *grid), dtype=np.float32))


def block_mask(uniform: Tensor, size_px: Size, ratio: float) -> Tensor:
    """Turn the draws (B, 1, gH, gW) into a mask (B, 1, H, W), 1 where a draw is above `ratio`."""
    return F.interpolate((uniform > ratio).float(), size_px, mode="nearest")


def mask_images(images: Tensor, uniform: Tensor, ratio: float) -> Tensor:
    """Hide blocks of normalised images (B, C, H, W); hidden pixels get the mean colour, 0."""
    height, width = images.shape[-2:]
    uniform = uniform.to(images.device, non_blocking=True)
    return images * block_mask(uniform, (height, width), ratio)
