"""Losses of the segmentation branches and of the feature distance (DAFormer, arXiv 2111.14887).

Which of them is taken of which image is in `stages/train/step.py`. B batch, K classes, C channels,
H W pixels, h w cells. Nothing here waits for the device.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.prepare.labels import IGNORE


def upsample_logits(logits: Tensor, size_px: Sequence[int]) -> Tensor:
    """Enlarge logits (B, K, h, w) bilinearly to (B, K, H, W), in float32."""
    return F.interpolate(logits.float(), tuple(size_px), mode="bilinear", align_corners=False)


def segmentation_loss(logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Average the cross entropy over all pixels of a label (B, H, W).

    Logits (B, K, h, w) are enlarged first. Ignored pixels and those of weight 0 add nothing but
    stay in the denominator, and the weights (B, H, W) are not normalised by their sum: a low weight
    makes the loss small.
    """
    logits = upsample_logits(logits, label.shape[-2:])
    loss = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")  # (B, H, W)
    return loss.mean() if weight is None else (loss * weight).mean()


def downscale_label(label: Tensor, cell_px: int, num_classes: int, min_share: float) -> Tensor:
    """Name the class that fills `min_share` of each cell of a label (B, H, W), or more.

    Returns:
        (B, h, w); 255 where ignored pixels or no class prevails.
    """
    batch, height, width = label.shape
    h, w, area = height // cell_px, width // cell_px, cell_px**2
    cells = label.view(batch, h, cell_px, w, cell_px).transpose(2, 3).reshape(batch, h, w, area)
    cells = cells.clamp(max=num_classes)  # ignore becomes the class after the last
    counts = torch.zeros(batch, h, w, num_classes + 1, device=label.device)
    counts.scatter_add_(-1, cells, counts.new_ones(()).expand(cells.shape))
    share, prevailing = (counts / area).max(dim=-1)  # (B, h, w)
    keep = (share >= min_share) & (prevailing < num_classes)
    return prevailing.where(keep, IGNORE)


def cells_of(
    label: Tensor,
    cell_px: int,
    *,
    num_classes: int,
    classes: Sequence[int],
    min_share: float,
) -> Tensor:
    """Mark the cells in which one of `classes` prevails, (B, h, w) bool; see `downscale_label`."""
    wanted = torch.tensor(classes).to(label.device, non_blocking=True)
    prevailing = downscale_label(label, cell_px, num_classes, min_share)
    return (prevailing.unsqueeze(-1) == wanted).any(dim=-1)


def feature_distance(
    student: Tensor, imagenet: Tensor, cells: Tensor, count: Tensor | None = None
) -> Tensor:
    """Average the distance to ImageNet features over some cells.

    Differs from SSR: without a cell the loss is 0, where the official one is NaN; both have zero
    gradient.

    Args:
        student: Features (B, C, h, w) of the student's last stage.
        imagenet: The same of the frozen ImageNet model.
        cells: (B, h, w) bool, those that count; see `cells_of`.
        count: Number to divide by, 0-d: of the whole batch where this is a part of it; None counts
            `cells`.

    Returns:
        Mean L2 norm over channels, a 0-d tensor; its gradient is 0 where the distance is.
    """
    difference = student.float() - imagenet.float()
    distance: Tensor = torch.linalg.vector_norm(difference, dim=1)  # (B, h, w)
    number = cells.sum() if count is None else count
    return distance.where(cells, 0).sum() / number.clamp(min=1)
