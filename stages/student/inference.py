"""Inference of the student alone: no teacher, no regulariser.

Legend: B batch, K classes, H W pixels of the input, h w of its part that shows the image (the
rest is padding at the right and bottom), H0 W0 pixels of the original image and its label.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.prepare.geometry import WORKING_MULTIPLE_PX, Size, working_size
from stages.prepare.manifest import ImageRecord
from stages.prepare.pixels import normalised_window, resize_image
from stages.student.config import ONCE, Inference
from stages.student.hrda import sliding_logits
from stages.student.student import Student

UINT8_CLASSES = 255  # 255 itself means "ignore" in labels, and predictions are compared to labels


@torch.inference_mode()
def predict_logits(
    student: nn.Module,
    image: Tensor,
    *,
    resized_size_px: Size,
    original_size_px: Size,
    window_px: int | None = None,
    precision: str = "float32",
) -> Tensor:
    """Compute the logits of every original pixel, float32 (B, K, H0, W0).

    Two successive bilinear resizes, as officially (mmseg `encoder_decoder.py:98-109,353-369`):
    stride 4 to the input, then to the original size. One direct resize gives other labels along
    the borders of classes.

    Differs from SSR: the input may be padded, as working images are multiples of 32. The padding
    is cut off after the first resize, whose grid is the input's; only then does the second resize
    map the image's own corners onto each other. Cityscapes at 1024x512 needs no padding.

    Args:
        student: In evaluation mode; (B, 3, H, W) to logits at stride 4.
        image: Normalised RGB, float32 (B, 3, H, W), on the student's device.
        resized_size_px: (h, w), at most (H, W).
        original_size_px: (H0, W0).
        window_px: Side of windows that slide over the input; None sees it at once, as officially.
        precision: `bfloat16` lets matrix products run in it; logits are resized in float32.
    """
    assert not student.training, "call student.eval() first: batch statistics are of training"
    input_size_px = (image.shape[2], image.shape[3])
    assert all(np.less_equal(resized_size_px, input_size_px)), (
        f"the image's part {resized_size_px} exceeds the input {input_size_px}"
    )
    with torch.autocast(image.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        if window_px is None:
            logits = _resize(student(image), input_size_px)  # (B, K, H, W)
        else:
            two_scales = isinstance(student, Student) and student.attention is not None
            # 512 of 1024, as HRDA, or 341 of 512, as mmseg's users choose
            step_px = window_px // 2 if two_scales else window_px * 2 // 3
            logits = sliding_logits(
                student,
                image,
                window_px=(window_px, window_px),
                stride_px=(step_px, step_px),
            )
    logits = logits[:, :, : resized_size_px[0], : resized_size_px[1]]  # (B, K, h, w)
    return _resize(logits, original_size_px)  # (B, K, H0, W0)


def predict_image(
    student: nn.Module,
    image: NDArray[np.uint8],
    record: ImageRecord,
    *,
    device: torch.device,
    how: Inference = ONCE,
) -> NDArray[np.uint8]:
    """Predict one image, or what it was resized to, at its original size, uint8 (H0, W0)."""
    sizes = record.resized_size_px, record.working_size_px, record.raw_size_px
    prediction: NDArray[np.uint8] = predict_images(
        student, [image], *sizes, device=device, how=how
    )[0]
    return prediction


@torch.inference_mode()
def predict_images(
    student: nn.Module,
    images: Sequence[NDArray[np.uint8]],
    resized_size_px: Size,
    working_size_px: Size,
    original_size_px: Size,
    *,
    device: torch.device,
    how: Inference = ONCE,
) -> NDArray[np.uint8]:
    """Predict the class of every original pixel of images of one size, uint8 (B, H0, W0).

    Several views of an image, scaled or mirrored, vote with the mean of their probabilities at
    the original size, as in mmseg's `aug_test`; each is scaled from the file's own pixels. The
    argmax of a single view is taken of its logits: softmax keeps their order.

    Args:
        student: As in `predict_logits`, on the device.
        images: RGB, uint8 each, as they were read or resized.
        resized_size_px: (h, w) at scale 1.
        working_size_px: The same padded, (H, W).
        original_size_px: (H0, W0).
        device: Where the student is.
        how: Windows, scales, mirroring and precision.
    """
    views = [(scale, flip) for scale in how.scales for flip in (False, True)[: 1 + how.flip]]
    votes: Tensor | None = None
    for scale, flip in views:
        size_px, padded_px = _sizes_at(scale, resized_size_px, working_size_px)
        pixels = pixels_of(images, size_px, padded_px, device=device)
        if flip:
            pixels[..., : size_px[1]] = pixels[..., : size_px[1]].flip(-1)
        logits = predict_logits(
            student,
            pixels,
            resized_size_px=size_px,
            original_size_px=original_size_px,
            window_px=how.window_px,
            precision=how.precision,
        )  # (B, K, H0, W0)
        vote = logits if len(views) == 1 else logits.softmax(dim=1)
        vote = vote.flip(-1) if flip else vote
        votes = vote if votes is None else votes.add_(vote)
    assert votes is not None, "an image is seen at least once"
    prediction: NDArray[np.uint8] = classes_of(votes).cpu().numpy()
    return prediction


def pixels_of(
    images: Sequence[NDArray[np.uint8]], size_px: Size, padded_px: Size, *, device: torch.device
) -> Tensor:
    """Scale images (H0, W0, 3) to (h, w), normalise and pad them: float32 (B, 3, H, W)."""
    windows = [normalised_window(resize_image(i, size_px), 0, 0, *padded_px) for i in images]
    return torch.from_numpy(np.stack(windows)).to(device)


def classes_of(scores: Tensor) -> Tensor:
    """Find the highest of K scores (B, K, H0, W0), uint8 (B, H0, W0)."""
    assert scores.shape[1] <= UINT8_CLASSES, f"{scores.shape[1]} classes do not fit in uint8"
    # max() rather than argmax(): the same index, on a CPU in less than half the time.
    return scores.max(dim=1).indices.to(torch.uint8)


def _sizes_at(scale: float, resized_px: Size, working_px: Size) -> tuple[Size, Size]:
    """Scale the size that the student sees, (h, w), and pad it, (H, W).

    A side that was padded up to the crop is padded as far at least at every scale.
    """
    if scale == 1:
        return resized_px, working_px
    height, width = resized_px
    size_px = (max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1))  # as fit_size
    plain, scaled = (working_size(each, WORKING_MULTIPLE_PX) for each in (resized_px, size_px))
    padded_height, padded_width = (
        max(side, working) if working > unpadded else side
        for side, working, unpadded in zip(scaled, working_px, plain, strict=True)
    )
    return size_px, (padded_height, padded_width)


def _resize(logits: Tensor, size_px: Size) -> Tensor:
    return F.interpolate(logits.float(), size_px, mode="bilinear", align_corners=False)
