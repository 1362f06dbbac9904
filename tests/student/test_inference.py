"""Inference with networks whose answers are known; the official numbers are in tests/parity."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.prepare.manifest import ImageRecord
from stages.prepare.pixels import normalised_window, resize_image
from stages.student.config import ONCE, Inference
from stages.student.inference import predict_image, predict_logits
from tests.evaluate.models import NAMES, lively_student, student_config

RAW, RESIZED, WORKING = (60, 100), (48, 80), (64, 96)
RECORD = ImageRecord(
    image_id="target/val/a",
    domain="target",
    split="val",
    image="a.png",
    label=None,
    raw_size_px=RAW,
    resized_size_px=RESIZED,
    working_size_px=WORKING,
    sha256="",
    class_pixels=None,
    label_sha256=None,
)


@pytest.fixture(scope="module")
def lively() -> nn.Module:
    return lively_student(student_config())


def photo() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*RAW, 3), np.uint8)


def seen(**how: object) -> Inference:
    return Inference.model_validate(ONCE.model_dump() | how)


def probabilities(
    student: nn.Module, size: tuple[int, int], padded: tuple[int, int], *, flip: bool
) -> Tensor:
    """The classes' probabilities (K, H0, W0) of the photo seen at a size, perhaps mirrored."""
    pixels = resize_image(photo(), size)
    if flip:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    window = torch.from_numpy(normalised_window(pixels, 0, 0, *padded))[None]
    logits = predict_logits(student, window, resized_size_px=size, original_size_px=RAW)
    shares = logits.softmax(dim=1)[0]
    return shares.flip(-1) if flip else shares


def test_views_of_an_image_vote_with_their_probabilities(lively: nn.Module) -> None:
    views = {1.0: (RESIZED, WORKING), 0.5: ((24, 40), (32, 64)), 1.5: ((72, 120), (96, 128))}
    mean = torch.stack(
        [
            probabilities(lively, *view, flip=flip)
            for view in views.values()
            for flip in (False, True)
        ]
    ).mean(dim=0)
    how = seen(scales=tuple(views), flip=True)
    labels = torch.from_numpy(
        predict_image(lively, photo(), RECORD, device=torch.device("cpu"), how=how)
    )
    first, second = mean.topk(2, dim=0).values
    assert torch.equal(labels[first - second > 1e-5], mean.argmax(dim=0)[first - second > 1e-5])
    once = predict_image(lively, photo(), RECORD, device=torch.device("cpu"))
    assert (labels.numpy() != once).mean() > 0.05  # else the views would say nothing new
    assert set(np.unique(labels)) <= set(range(len(NAMES)))
