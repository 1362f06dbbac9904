"""ClassMix: paste the pixels of some source classes onto target images (arXiv 2007.07936).

B batch, C channels, H W pixels, h w tokens. Masks are bool (B, 1, H, W), true for source.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.train.crops import Rng

ClassPool = Literal["batch", "image"]
LABEL_VALUES = 256
"""Labels are bytes: class ids and 255 for ignore."""


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
