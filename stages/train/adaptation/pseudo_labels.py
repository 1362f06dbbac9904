"""The EMA model, its pseudo-labels and how far to trust them (DACS, arXiv 2007.08702).

B batch, K classes, H W pixels, h w cells of the network's output.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.prepare.geometry import Size


def ema_alpha(iteration: int, alpha_max: float) -> float:
    """Share of the old EMA weights at this 0-based iteration: min(1 - 1/(t+1), alpha_max)."""
    return min(1 - 1 / (iteration + 1), alpha_max)


@torch.no_grad()
def update_ema(ema: nn.Module, student: nn.Module, iteration: int, alpha_max: float) -> None:
    """Move the parameters of `ema` towards those of `student`, in place.

    At iteration 0 alpha is 0: the student is copied. Buffers are never touched: the EMA model
    keeps its own batch-norm statistics (parity case `ema`).
    """
    old: list[Tensor] = list(ema.parameters())
    new: list[Tensor] = list(student.parameters())
    # One kernel for many tensors, and one pass over them instead of two.
    torch._foreach_lerp_(old, new, weight=1 - ema_alpha(iteration, alpha_max))


class PseudoLabels(NamedTuple):
    """What is believed of a batch.

    Attributes:
        label: Most probable class (B, H, W), int64; no pixel is ignored.
        confidence: In 0..1, a 0-d tensor: the share of the batch's pixels that reach the threshold,
            or the mean of `weight`.
        weight: Of each pixel (B, H, W) in 0..1, its margins included.
    """

    label: Tensor
    confidence: Tensor
    weight: Tensor


def most_probable(logits: Tensor, size_px: Size) -> tuple[Tensor, Tensor]:
    """Return the highest probability of each pixel (B, H, W), and the class that has it."""
    # float32 under autocast too: the count at 0.968 is sensitive to rounding.
    logits = F.interpolate(logits.float(), size_px, mode="bilinear", align_corners=False)
    probability, label = logits.softmax(dim=1).max(dim=1)  # (B, H, W)
    return probability, label


def most_probable_stored(probabilities: Tensor, size_px: Size) -> tuple[Tensor, Tensor]:
    """As `most_probable`, of stored probabilities (B, K, h, w)."""
    finer = F.interpolate(probabilities, size_px, mode="bilinear", align_corners=False)
    probability, label = finer.max(dim=1)
    return probability, label


def agreed(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Join two labellers: the mean of their probabilities where they agree, elsewhere 0."""
    (one, label), (other, also) = first, second
    return (one + other) / 2 * (label == also), label


def weighted(probability: Tensor, label: Tensor, threshold: float | None) -> PseudoLabels:
    """Weigh labels (B, H, W) by their probability; a pixel of probability 0 has no weight.

    With a threshold, all pixels have one weight, the share that reaches it (published). Without
    one, each has its own probability, so that a labeller that is seldom sure still teaches what it
    is sure of.
    """
    if threshold is None:
        return PseudoLabels(label, probability.mean(), probability)
    share = (probability >= threshold).sum() / probability.numel()
    return PseudoLabels(label, share, share * (probability > 0))


def pseudo_weight(confidence: Tensor, valid: Tensor) -> Tensor:
    """Spread a confidence, 0-d or of each pixel, over the pixels (B, H, W) to learn from.

    Margins and padding count in the confidence and lose their weight only here, as in the official
    code.
    """
    return confidence * valid


def valid_pixels(
    *,
    origin_px: Size,
    crop_px: Size,
    image_px: Size,
    margins_px: tuple[int, int, int, int],
    frame_px: Size | None = None,
) -> Tensor:
    """Mark a crop's pixels inside the image and outside its margins (own car, image border).

    Differs from SSR: the margins are rows of the image, wherever the crop lies. Official margins
    are rows of the crop, which is the same as long as the crop is as high as the image. HRDA's are
    those of a frame that is resized as the image is, to the nearest pixel; its padding weighs 255.

    Args:
        origin_px: Top left corner (y, x) of the crop in the image.
        crop_px: Size (H, W) of the crop, which may reach into the padding.
        image_px: Size of the image without padding.
        margins_px: Rows and columns without weight at the top, bottom, left and right.
        frame_px: Size of the frame whose rows and columns they are; None is the image itself.

    Returns:
        bool (H, W).
    """
    rows, columns = (
        _kept(torch.arange(first, first + length), side, frame, margins)
        for first, length, side, frame, margins in zip(
            origin_px,
            crop_px,
            image_px,
            frame_px or image_px,
            (margins_px[:2], margins_px[2:]),
            strict=True,
        )
    )
    return rows[:, None] & columns


def _kept(places: Tensor, side: int, frame: int, margins: tuple[int, int]) -> Tensor:
    of_frame = places * frame // side
    return (of_frame >= margins[0]) & (of_frame < frame - margins[1]) & (places < side)
