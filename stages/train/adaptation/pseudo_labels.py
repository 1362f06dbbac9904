"""Pseudo-labels of the EMA model and how far to trust them (DACS, arXiv 2007.08702).

B batch, K classes, H W pixels, h w cells of the network's output.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.prepare.geometry import Size


class PseudoLabels(NamedTuple):
    """What the EMA model believes of a batch.

    Attributes:
        label: Most probable class (B, H, W), int64; no pixel is ignored.
        confidence: Share in 0..1 of the batch's pixels that reach the threshold, a 0-d tensor.
    """

    label: Tensor
    confidence: Tensor


def pseudo_labels(logits: Tensor, size_px: Size, threshold: float) -> PseudoLabels:
    """Read labels and one confidence for the whole batch off the EMA model's logits.

    Confidence scales the loss of all pixels alike; it is not a threshold for each pixel.

    Args:
        logits: (B, K, h, w).
        size_px: Size (H, W) of the images.
        threshold: Probability from which a pixel counts as confident, itself included.
    """
    # float32 under autocast too: the count at 0.968 is sensitive to rounding.
    logits = F.interpolate(logits.float(), size_px, mode="bilinear", align_corners=False)
    probability, label = logits.softmax(dim=1).max(dim=1)  # (B, H, W)
    return PseudoLabels(label, (probability >= threshold).sum() / probability.numel())


def pseudo_weight(confidence: Tensor, valid: Tensor) -> Tensor:
    """Spread the confidence over the pixels that may be learned from.

    Margins and padding count in the confidence and lose their weight only here, as in the official
    code.

    Args:
        confidence: 0-d.
        valid: Pixels (B, H, W) that have a weight, bool.

    Returns:
        Loss weights (B, H, W), float32.
    """
    return confidence * valid


def valid_pixels(
    *, origin_px: Size, crop_px: Size, image_px: Size, ignore_top_px: int, ignore_bottom_px: int
) -> Tensor:
    """Mark a crop's pixels inside the image and outside its margins (own car, image border).

    Differs from SSR: the margins are rows of the image, wherever the crop lies. Official margins
    are rows of the crop, which is the same as long as the crop is as high as the image.

    Args:
        origin_px: Top left corner (y, x) of the crop in the image.
        crop_px: Size (H, W) of the crop, which may reach into the padding.
        image_px: Size of the image without padding.
        ignore_top_px: Rows without weight at the image's top.
        ignore_bottom_px: Rows without weight at its bottom.

    Returns:
        bool (H, W).
    """
    (y, x), (height, width) = origin_px, image_px
    rows = torch.arange(y, y + crop_px[0])
    columns = torch.arange(x, x + crop_px[1])
    kept = (rows >= ignore_top_px) & (rows < height - ignore_bottom_px)
    return kept[:, None] & (columns < width)
