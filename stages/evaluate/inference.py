"""Whole-image inference of the student alone: no teacher, no regulariser, no EMA model.

Legend: B batch, K classes, H W pixels of the input, h w of its part that shows the image (the
rest is padding at the right and bottom), H0 W0 pixels of the original image and its label.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.prepare.geometry import Size

UINT8_CLASSES = 255  # 255 itself means "ignore" in labels, and predictions are compared to labels


@torch.inference_mode()
def predict_logits(
    student: nn.Module, image: Tensor, *, resized_size_px: Size, original_size_px: Size
) -> Tensor:
    """Compute the logits of every original pixel.

    Two successive bilinear resizes, as officially (spec section 1.7; mmseg
    `encoder_decoder.py:98-109,353-369`): stride 4 to the input, then to the original size. One
    direct resize gives other labels along the borders of classes.

    Differs from SSR: the input may be padded, because working images are multiples of 32 (the
    official validation pads nothing; Cityscapes at 1024x512 needs no padding and is unchanged).
    The padding is cut off after the first resize, whose grid is the input's; only then does the
    second resize map the image's own corners onto each other.

    Args:
        student: Network in evaluation mode; (B, 3, H, W) to logits at stride 4.
        image: Normalised RGB, float32 (B, 3, H, W), on the student's device.
        resized_size_px: (h, w), at most (H, W).
        original_size_px: (H0, W0).

    Returns:
        Logits, float32 (B, K, H0, W0).
    """
    assert not student.training, "call student.eval() first: batch statistics are of training"
    input_size_px = (image.shape[2], image.shape[3])
    assert all(np.less_equal(resized_size_px, input_size_px)), (
        f"the image's part {resized_size_px} exceeds the input {input_size_px}"
    )
    logits: Tensor = student(image)  # (B, K, H/4, W/4)
    logits = _resize(logits, input_size_px)  # (B, K, H, W)
    logits = logits[:, :, : resized_size_px[0], : resized_size_px[1]]  # (B, K, h, w)
    return _resize(logits, original_size_px)  # (B, K, H0, W0)


@torch.inference_mode()
def predict(
    student: nn.Module,
    image: Tensor,
    *,
    resized_size_px: Size,
    original_size_px: Size,
    flip: bool = False,
) -> Tensor:
    """Predict the class of every original pixel.

    The argmax is taken of the logits: the official softmax before it is monotonic.

    Args:
        student: As in `predict_logits`.
        image: As in `predict_logits`.
        resized_size_px: As in `predict_logits`.
        original_size_px: As in `predict_logits`.
        flip: The input shows the image mirrored left to right; the prediction is mirrored back.

    Returns:
        Class ids, uint8 (B, H0, W0).
    """
    logits = predict_logits(
        student, image, resized_size_px=resized_size_px, original_size_px=original_size_px
    )
    assert logits.shape[1] <= UINT8_CLASSES, f"{logits.shape[1]} classes do not fit in uint8"
    # max() rather than argmax(): the same index, on a CPU in less than half the time.
    labels = logits.max(dim=1).indices.to(torch.uint8)  # (B, H0, W0)
    return labels.flip(-1) if flip else labels


def _resize(logits: Tensor, size_px: Size) -> Tensor:
    return F.interpolate(logits, size_px, mode="bilinear", align_corners=False)
