"""Inference with networks whose answers are known; the official numbers are in tests/parity."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from stages.prepare.pixels import normalised_window, resize_image
from stages.student.config import Inference
from stages.student.inference import predict_images, predict_logits
from tests.evaluate.models import NAMES, lively_student, student_config

RAW, RESIZED, WORKING = (60, 100), (48, 80), (64, 96)
PHOTO = np.random.default_rng(0).integers(0, 256, (*RAW, 3), np.uint8)


def predicted(student: nn.Module, scales: Sequence[float], *, flip: bool) -> torch.Tensor:
    how = Inference(window_px=None, scales=tuple(scales), flip=flip, precision="float32")
    labels = predict_images(
        student, [PHOTO], RESIZED, WORKING, RAW, device=torch.device("cpu"), how=how
    )
    return torch.from_numpy(labels)[0]


def test_views_of_an_image_vote_with_their_probabilities() -> None:
    student = lively_student(student_config())
    views = {1.0: (RESIZED, WORKING), 0.5: ((24, 40), (32, 64)), 1.5: ((72, 120), (96, 128))}
    votes = []
    for size, padded in views.values():
        pixels = resize_image(PHOTO, size)
        for seen in (pixels, np.ascontiguousarray(pixels[:, ::-1])):
            window = torch.from_numpy(normalised_window(seen, 0, 0, *padded))[None]
            logits = predict_logits(student, window, resized_size_px=size, original_size_px=RAW)
            votes.append(logits.softmax(dim=1)[0])
    mean = torch.stack([*votes[::2], *(vote.flip(-1) for vote in votes[1::2])]).mean(dim=0)
    labels = predicted(student, [*views], flip=True)
    first, second = mean.topk(2, dim=0).values
    clear = first - second > 1e-5
    assert torch.equal(labels[clear], mean.argmax(dim=0)[clear])
    once = predicted(student, [1.0], flip=False)
    assert (labels != once).float().mean() > 0.05  # else the views would say nothing new
    assert set(labels.flatten().tolist()) <= set(range(len(NAMES)))
