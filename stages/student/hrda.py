"""HRDA: a context and a detail scale, fused by attention for each class (arXiv 2204.13132).

Official files (`lhoyer/MIC`): `hrda_encoder_decoder.py` and `hrda_head.py`; the constants are those
of `gtaHR2csHR_mic_hrda.py`. Functions take the parts of a student, which serve both scales:
`features`, images (B, 3, H, W) to four maps, finest first, and `head`, four maps to logits.

# B batch, K classes, H W pixels of the crop, h w pixels of the detail crop, W windows
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.prepare.geometry import Size
from stages.student.heads import DAFormerHead
from store.errors import ConfigError

CONTEXT_SCALE: Final = 0.5
LOGIT_STRIDE_PX: Final = 4
ALIGN_PX: Final = 8
"""A cell of the context's logits, in pixels of the crop: boxes are multiples of it."""
DETAIL_WEIGHT: Final = 0.1
ATTENTION_CHANNELS: Final = 256
DROPOUT: Final = 0.1

Box = tuple[int, int, int, int]
"""y1, y2, x1, x2; ends excluded."""

Maps = TypeVar("Maps")
"""What a backbone makes of images: four maps, and more perhaps."""

Head = Callable[[Sequence[Tensor]], Tensor]
PixelLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(logits, label, weight or None) -> mean over pixels, as `segmentation_loss`."""


class ScaleAttention(DAFormerHead):
    """DAFormer's head with a single 1x1 fusion: logits of how far to trust the detail, by class."""

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = ATTENTION_CHANNELS,
        dropout: float = DROPOUT,
    ) -> None:
        super().__init__(
            in_channels, channels, channels, num_classes, dropout=dropout, dilations=(1,)
        )
        self.bottleneck, self.aspp[0] = self.aspp[0], nn.Identity()  # type: ignore[assignment]


class Fused(NamedTuple):
    """What the head makes of both scales."""

    logits: Tensor  # (B, K, H/4, W/4), fused
    context: Tensor  # (B, K, H/8, W/8), attenuated: low where attention trusts the detail
    detail: Tensor  # (B, K, h/4, w/4), of the box
    attention: Tensor  # (B, K, H/8, W/8) in 0..1, 0 outside the box


def draw_box(
    draw: Callable[[int], int], image_px: Size, crop_px: Size, *, align_px: int = ALIGN_PX
) -> Box:
    """Draw the place of a detail crop, one for all images of a batch.

    `draw` maps the number of places to one of them, rows first; offsets are multiples of
    `align_px`. The last place is never drawn, as officially. Nothing is drawn where the crop is the
    image.

    Raises:
        ConfigError: If there is no place to choose from.
    """
    if crop_px == image_px:
        return 0, image_px[0], 0, image_px[1]
    places = [(side - crop + 1) // align_px for side, crop in zip(image_px, crop_px, strict=True)]
    if min(places) < 1:
        raise ConfigError(
            f"train.student.hrda: a detail crop of {crop_px[0]}x{crop_px[1]} px has no place in a "
            f"crop of {image_px[0]}x{image_px[1]} px; make it at least {align_px} px smaller on "
            "each side, or equal"
        )
    y, x = (int(draw(number)) * align_px for number in places)
    return y, y + crop_px[0], x, x + crop_px[1]


def box_of_cells(box: Box, cell_px: int) -> Box:
    """Divide a box in pixels by the side of a cell, rounding down."""
    y1, y2, x1, x2 = (side // cell_px for side in box)
    return y1, y2, x1, x2


def crop_to(box: Box, pixels: Tensor) -> Tensor:
    """Cut images (B, C, H, W), or labels or weights (B, H, W), to a box."""
    y1, y2, x1, x2 = box
    return pixels[..., y1:y2, x1:x2]


def context_images(images: Tensor) -> Tensor:
    """Halve images (B, 3, H, W): bilinear, by the factor, so that odd sides lose their last row."""
    return F.interpolate(images, scale_factor=CONTEXT_SCALE, mode="bilinear", align_corners=False)


def crop_tokens(box: Box, map_: Tensor, image_px: Size) -> Tensor:
    """Cut a teacher's map (B, C, h, w) of images to the tokens that a box of pixels touches."""
    rows, columns = (
        slice(first * tokens // side, -(-last * tokens // side))
        for first, last, tokens, side in zip(
            box[::2], box[1::2], map_.shape[2:], image_px, strict=True
        )
    )
    return map_[..., rows, columns]


def features_of(features: Callable[[Tensor], Maps], images: Tensor, box: Box) -> tuple[Maps, Maps]:
    """Run the backbone on the context of images (B, 3, H, W), then on their detail crop."""
    return features(context_images(images)), features(crop_to(box, images))


def classify(
    head: Head,
    attention: nn.Module,
    context_maps: Sequence[Tensor],
    detail_maps: Sequence[Tensor],
    box: Box,
) -> Fused:
    """Classify both scales and fuse them; batch norms see the context first, then the detail.

    The `ScaleAttention` sees the context alone.
    """
    context, detail = head(context_maps), head(detail_maps)
    return fuse(context, detail, attention(context_maps).sigmoid(), box)


def fuse(context: Tensor, detail: Tensor, attention: Tensor, box: Box) -> Fused:
    """Blend the logits of both scales, of shapes as in `Fused`.

    Attention and the attenuated context are enlarged separately and added then. The box masks the
    attention before it is enlarged, so that it reaches a cell beyond the box, as officially.
    """
    height, width = context.shape[2:]
    inside = box_of_cells(box, ALIGN_PX)
    seen = crop_to(inside, torch.ones_like(attention[:1, :1]))
    attention = attention * _place(seen, inside, (height, width))
    canvas = _place(detail, box_of_cells(box, LOGIT_STRIDE_PX), (2 * height, 2 * width))
    context = (1 - attention) * context
    return Fused(_double(attention) * canvas + _double(context), context, detail, attention)


def logits_of(predicted: Tensor | Fused) -> Tensor:
    """Return the logits of one scale, or those of two that are fused."""
    return predicted if isinstance(predicted, Tensor) else predicted.logits


def scale_losses(
    fused: Fused,
    label: Tensor,
    weight: Tensor | None = None,
    *,
    box: Box,
    loss: PixelLoss,
    detail_weight: float = DETAIL_WEIGHT,
    context_weight: float = 0.0,
) -> dict[str, Tensor]:
    """Weigh the losses of the fused logits, of the detail and, if asked, of the context.

    Label (B, H, W) int64 and weight (B, H, W) in 0..1 are of the whole crop, `box` is that of
    `classify`. Each loss is a mean over its own pixels; the fused logits' share is what the others
    leave.
    """
    inside = None if weight is None else crop_to(box, weight)
    losses = {
        "fused": (1 - detail_weight - context_weight) * loss(fused.logits, label, weight),
        "detail": detail_weight * loss(fused.detail, crop_to(box, label), inside),
    }
    if context_weight:
        losses["context"] = context_weight * loss(fused.context, label, weight)
    return losses


def predict(
    features: Callable[[Tensor], Sequence[Tensor]],
    head: Head,
    attention: nn.Module,
    images: Tensor,
    *,
    detail_px: Size | None,
    stride_px: Size | None = None,
) -> Fused:
    """Fuse whole images, the detail from sliding windows: for the EMA model and at inference.

    All windows of all images (B, 3, H, W), of sides that are multiples of 8, are one batch, windows
    outermost. In train mode, as the EMA model is, batch norms see them together.

    A window has the size `detail_px`; None sees the detail at once. Windows are `stride_px` apart;
    None is half a window, as officially.
    """
    size = (images.shape[2], images.shape[3])
    window = detail_px or size
    boxes = slide_boxes(size, window, stride_px or (window[0] // 2, window[1] // 2))
    context_maps = features(context_images(images))
    detail_maps = features(torch.cat([crop_to(box, images) for box in boxes]))
    context, windows = head(context_maps), head(detail_maps)
    cells = [box_of_cells(box, LOGIT_STRIDE_PX) for box in boxes]
    detail = average_windows(windows, cells, (2 * context.shape[2], 2 * context.shape[3]))
    return fuse(context, detail, attention(context_maps).sigmoid(), (0, size[0], 0, size[1]))


def slide_boxes(image_px: Size, window_px: Size, stride_px: Size) -> list[Box]:
    """Spread windows over an image, row by row; the last ones are moved inwards."""
    rows, columns = (
        [min(step * stride, max(side - window, 0)) for step in range(_steps(side, window, stride))]
        for side, window, stride in zip(image_px, window_px, stride_px, strict=True)
    )
    height, width = (min(sides) for sides in zip(image_px, window_px, strict=True))
    return [(y, y + height, x, x + width) for y in rows for x in columns]


def window_counts(boxes: Sequence[Box], size: Size, device: torch.device | None = None) -> Tensor:
    """Count the windows over each place, float32 (H, W)."""
    counts = torch.zeros(size, device=device)
    for box in boxes:
        crop_to(box, counts).add_(1)
    return counts


def average_windows(logits: Tensor, boxes: Sequence[Box], size: Size) -> Tensor:
    """Average logits, not probabilities, where windows overlap; in float32 at least.

    `logits` (W B, K, ...), windows outermost, are each as large as its box in the result, which is
    (B, K, *size).
    """
    windows = logits.chunk(len(boxes))
    total = logits.new_zeros(
        *windows[0].shape[:2], *size, dtype=torch.promote_types(logits.dtype, torch.float32)
    )
    for box, window in zip(boxes, windows, strict=True):
        crop_to(box, total).add_(window)
    return total / window_counts(boxes, size, total.device)


def sliding_logits(
    student: Callable[[Tensor], Tensor], images: Tensor, *, window_px: Size, stride_px: Size
) -> Tensor:
    """Slide a window over images that are larger than a training crop (`encoder_decoder.py`).

    The student, in eval mode, maps one window after the other to logits at stride 4, which takes
    less memory than the official batch of all.

    Returns:
        (B, K, H, W): each window enlarged to its pixels first, then averaged.
    """
    size = (images.shape[2], images.shape[3])
    boxes = slide_boxes(size, window_px, stride_px)
    windows = [crop_to(box, images) for box in boxes]
    logits = torch.cat([student(each) for each in windows])
    enlarged = F.interpolate(
        logits.float(), windows[0].shape[2:], mode="bilinear", align_corners=False
    )
    return average_windows(enlarged, boxes, size)


def _steps(side: int, window: int, stride: int) -> int:
    return max(side - window + stride - 1, 0) // stride + 1


def _place(map_: Tensor, box: Box, size: Size) -> Tensor:
    """Lay a map into zeros of a size."""
    y1, y2, x1, x2 = box
    return F.pad(map_, (x1, size[1] - x2, y1, size[0] - y2))


def _double(map_: Tensor) -> Tensor:
    return F.interpolate(map_, scale_factor=2.0, mode="bilinear", align_corners=False)
