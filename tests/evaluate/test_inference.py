"""Inference with networks whose answers are known; the official numbers are in tests/parity."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.evaluate.inference import predict, predict_logits


class Brightness(nn.Module):
    """Two logits at stride 4: the mean of the first channel's 4x4 cell, and 0."""

    def forward(self, image: Tensor) -> Tensor:
        cells = F.avg_pool2d(image[:, :1], 4)
        return torch.cat([cells, torch.zeros_like(cells)], dim=1)


@pytest.fixture
def student() -> nn.Module:
    return Brightness().eval()


def half_bright(height: int, width: int, bright_px: int) -> Tensor:
    """Left `bright_px` columns are 1 (class 0), all others -1 (class 1)."""
    image = -torch.ones(1, 3, height, width)
    image[..., :bright_px] = 1
    return image


def test_labels_come_at_the_original_size_as_uint8(student: nn.Module) -> None:
    labels = predict(
        student, half_bright(32, 64, 32), resized_size_px=(32, 64), original_size_px=(50, 100)
    )
    assert labels.dtype == torch.uint8
    assert labels.shape == (1, 50, 100)
    assert (labels[..., :50] == 0).all()
    assert (labels[..., 50:] == 1).all()


def test_the_resize_goes_through_the_input_size(student: nn.Module) -> None:
    image = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    logits = predict_logits(student, image, resized_size_px=(32, 64), original_size_px=(70, 90))
    low = student(image)
    middle = F.interpolate(low, (32, 64), mode="bilinear", align_corners=False)
    twice = F.interpolate(middle, (70, 90), mode="bilinear", align_corners=False)
    once = F.interpolate(low, (70, 90), mode="bilinear", align_corners=False)
    assert torch.equal(logits, twice)
    assert (logits - once).abs().max() > 1e-2


def test_padding_is_cut_off_before_the_second_resize(student: nn.Module) -> None:
    # 40 of 64 columns and 24 of 32 rows are the image; the padding is loudly of class 0.
    image = half_bright(32, 64, 20)
    image[..., 40:] = 100
    image[:, :, 24:] = 100
    labels = predict(student, image, resized_size_px=(24, 40), original_size_px=(48, 80))
    # Were the padding resized too, the border between the classes would lie at 80 * 20 / 64 = 25.
    assert (labels[0, :40, :40] == 0).all()
    assert (labels[0, :40, 44:72] == 1).all()


def test_a_flipped_input_gives_the_prediction_of_the_image_it_mirrors(student: nn.Module) -> None:
    def labels(image: Tensor, *, flip: bool) -> Tensor:
        size = (32, 64)
        return predict(student, image, resized_size_px=size, original_size_px=size, flip=flip)

    image = half_bright(32, 64, 16)
    plain = labels(image, flip=False)
    assert torch.equal(labels(image.flip(-1), flip=True), plain)
    assert torch.equal(labels(image, flip=True), plain.flip(-1))
    assert not torch.equal(plain, plain.flip(-1))


def test_no_graph_is_kept(student: nn.Module) -> None:
    image = half_bright(32, 32, 16).requires_grad_()
    logits = predict_logits(student, image, resized_size_px=(32, 32), original_size_px=(32, 32))
    assert logits.is_inference()


def test_a_student_in_training_mode_is_refused(student: nn.Module) -> None:
    with pytest.raises(AssertionError, match="eval"):
        predict(
            student.train(),
            half_bright(32, 32, 16),
            resized_size_px=(32, 32),
            original_size_px=(32, 32),
        )


def test_a_resized_size_beyond_the_input_is_refused(student: nn.Module) -> None:
    with pytest.raises(AssertionError, match=r"\(32, 40\) exceeds the input \(32, 32\)"):
        predict(
            student,
            half_bright(32, 32, 16),
            resized_size_px=(32, 40),
            original_size_px=(32, 40),
        )
