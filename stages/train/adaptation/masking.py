"""Masked image consistency: hide random blocks of the target image (MIC, arXiv 2212.01322).

B batch, C channels, H W pixels, g blocks along a side.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.prepare.geometry import Size
from store.errors import ConfigError


def draw_blocks(rng: np.random.Generator, batch: int, size_px: Size, block_px: int) -> Tensor:
    """Draw a uniform number for each block of each image.

    The grid has round(side / block) blocks, so that they become uneven where the block does not
    divide the side. Python rounds halves to even here, as it does in the official code.

    Returns:
        float32 (B, 1, gH, gW) in [0, 1).

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
    """Turn the draws into a mask of the image.

    Args:
        uniform: (B, 1, gH, gW) in [0, 1).
        size_px: Size (H, W) of the images.
        ratio: Share of hidden blocks in 0..1; a block is seen where its draw is above.

    Returns:
        float32 (B, 1, H, W), 1 where the image is seen.
    """
    return F.interpolate((uniform > ratio).float(), size_px, mode="nearest")


def mask_images(images: Tensor, uniform: Tensor, ratio: float) -> Tensor:
    """Hide blocks of normalised images (B, C, H, W); hidden pixels get the mean colour, 0."""
    height, width = images.shape[-2:]
    return images * block_mask(uniform, (height, width), ratio)
