"""Losses of the segmentation branches and of the feature distance (DAFormer, arXiv 2111.14887).

B batch, K classes, C channels, H W pixels, h w cells. Nothing here waits for the device.
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
    """Average the cross entropy over all pixels.

    Ignored pixels and those of weight 0 add nothing but stay in the denominator, and the weights
    are not normalised by their sum: a low weight makes the loss small.

    Args:
        logits: (B, K, h, w), enlarged to the label's size first.
        label: (B, H, W), int64, 255 is ignored.
        weight: (B, H, W) in 0..1.

    Returns:
        0-d tensor.
    """
    logits = upsample_logits(logits, label.shape[-2:])
    loss = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")  # (B, H, W)
    return loss.mean() if weight is None else (loss * weight).mean()


def downscale_label(label: Tensor, cell_px: int, num_classes: int, min_share: float) -> Tensor:
    """Name the class that prevails in each cell.

    Args:
        label: (B, H, W), int64 in 0..K-1 or 255.
        cell_px: Side of a cell; divides H and W.
        num_classes: K.
        min_share: Share of a cell that its class must fill, itself included.

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
    student: Tensor,
    imagenet: Tensor,
    label: Tensor,
    *,
    num_classes: int,
    classes: Sequence[int] | None,
    min_share: float,
    among: Tensor | None = None,
) -> Tensor:
    """Average the distance to ImageNet features over the cells that show the given classes.

    Differs from SSR: with no such cell the loss is 0, where the official one is NaN; both have zero
    gradient.

    Args:
        student: Features (B, C, h, w) of the student's last stage.
        imagenet: The same of the frozen ImageNet model.
        label: (B, H, W), int64; H and W are one multiple of h and w.
        num_classes: K.
        classes: Class ids that count; None takes all cells, whatever they show.
        min_share: Share of a cell that its class must fill to count.
        among: Number of cells to divide by, 0-d: of the whole batch where this is a part of it;
            None counts those of the classes.

    Returns:
        Mean L2 norm over channels, a 0-d tensor; its gradient is 0 where the distance is.
    """
    difference = student.float() - imagenet.float()
    distance: Tensor = torch.linalg.vector_norm(difference, dim=1)  # (B, h, w)
    if classes is None:
        return distance.mean()
    height, width = label.shape[-2:]
    cell_px = width // distance.shape[-1]
    if (height, width) != tuple(side * cell_px for side in distance.shape[-2:]):
        raise ValueError(
            f"a label of {height}x{width} px is not a multiple of features {tuple(student.shape)}"
        )
    chosen = cells_of(label, cell_px, num_classes=num_classes, classes=classes, min_share=min_share)
    count = chosen.sum() if among is None else among
    return distance.where(chosen, 0).sum() / count.clamp(min=1)
