"""What only the official code computes or names so, from our networks."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from stages.student.weights import official_to_ours, ours_to_official
from stages.train.adaptation.losses import upsample_logits


def export_official(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate back: parameters, buffers or gradients of ours to the official layout.

    Raises:
        ValueError: If a tensor has no official name, or a part of a fused one is missing.
    """
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in ours.items():
        official = ours_to_official(name)
        if official is None:
            raise ValueError(f"{name} has no official name")
        parts[official][name] = tensor
    exported = {}
    for official, found in parts.items():
        names = official_to_ours(official)
        if len(found) != len(names):
            raise ValueError(f"{official} needs all of {', '.join(names)}")
        tensors = [found[name] for name in names]
        exported[official] = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    return exported


@torch.no_grad()
def pixel_accuracy(logits: Tensor, label: Tensor) -> Tensor:
    """Give the percentage of all pixels that are right; ignored ones count as wrong.

    The official `acc_seg`, for logging. Shapes as for `segmentation_loss`.
    """
    prediction = upsample_logits(logits, label.shape[-2:]).argmax(dim=1)
    return (prediction == label).float().mean() * 100
