import math

import pytest
import torch
from torch import Tensor

from stages.prepare.labels import IGNORE
from stages.train.adaptation.losses import downscale_label, feature_distance, segmentation_loss
from tests.official import pixel_accuracy
from tests.parity.cases import Reference, assert_close


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_loss_and_accuracy_are_those_of_the_official_head(reference: Reference, mode: str) -> None:
    case = reference("daformer_head")
    logits, label = case.tensor(f"out/{mode}/logits"), case.tensor("in/label").squeeze(1)
    weight = case.tensor("in/seg_weight")
    assert_close(segmentation_loss(logits, label), case[f"out/{mode}/loss"], 1e-6)
    weighted = case[f"out/{mode}/loss_weighted"]
    assert_close(segmentation_loss(logits, label, weight), weighted, 1e-6)
    assert_close(pixel_accuracy(logits, label), case[f"out/{mode}/acc_seg"].reshape(()), 1e-6)


def test_ignored_pixels_stay_in_the_denominator() -> None:
    label = torch.tensor([[[0, 1, 2, IGNORE]]])
    loss = segmentation_loss(torch.zeros(1, 3, 1, 4), label)
    assert loss.item() == pytest.approx(0.75 * math.log(3))


def test_weights_are_multiplied_in_and_not_normalised() -> None:
    logits, label = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    weight = torch.tensor([[[0.1, 0.2], [0.0, 0.1]]])
    loss = segmentation_loss(logits, label, weight)
    assert loss.item() == pytest.approx(0.1 * math.log(3))


def test_a_batch_without_labelled_pixels_has_zero_loss_and_gradient() -> None:
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 8, 8), IGNORE))
    backward(loss)
    assert logits.grad is not None
    assert loss.item() == 0
    assert not logits.grad.any()


def test_half_precision_logits_give_a_float32_loss() -> None:
    logits = torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)
    loss = segmentation_loss(logits, torch.zeros(1, 4, 4, dtype=torch.int64))
    assert loss.dtype == torch.float32


def test_accuracy_counts_ignored_pixels_as_wrong() -> None:
    logits = torch.tensor([[[[9.0]], [[0.0]]]])
    label = torch.tensor([[[0, 0], [1, IGNORE]]])
    assert pixel_accuracy(logits, label).item() == 50


def cell(pixels: dict[int, int]) -> Tensor:
    """A label (1, 4, 4) with so many pixels of each class."""
    values = [c for c, number in pixels.items() for _ in range(number)]
    return torch.tensor(values).view(1, 4, 4)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ({2: 16}, 2),
        ({2: 12, 0: 4}, 2),  # exactly the share of 0.75
        ({2: 11, 0: 5}, IGNORE),
        ({0: 12, IGNORE: 4}, 0),
        ({IGNORE: 12, 0: 4}, IGNORE),
        ({IGNORE: 16}, IGNORE),
    ],
)
def test_a_cell_has_the_class_that_fills_enough_of_it(
    pixels: dict[int, int], expected: int
) -> None:
    assert downscale_label(cell(pixels), 4, 3, 0.75).tolist() == [[[expected]]]


def test_cells_keep_their_place_and_image() -> None:
    small = torch.randint(0, 5, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    small[0, 1, 2] = IGNORE
    large = small.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    assert torch.equal(downscale_label(large, 8, 5, 0.75), small)


def distance(student: Tensor, imagenet: Tensor, label: Tensor, *classes: int) -> Tensor:
    return feature_distance(
        student, imagenet, label, num_classes=5, classes=classes, min_share=0.75
    )


def test_distance_is_averaged_over_the_cells_of_the_whole_batch() -> None:
    label = torch.tensor([[[1, 1, 1, 0]], [[0, 0, 0, 2]]]).repeat_interleave(2, 1)
    label = label.repeat_interleave(2, 2)  # (2, 2, 8): cells of 2 px
    student, imagenet = torch.zeros(2, 2, 1, 4), torch.zeros(2, 2, 1, 4)
    student[0, :, 0, 0] = torch.tensor([3.0, 4.0])  # distance 5 in a cell of class 1
    student[1, :, 0, 3] = torch.tensor([0.0, -3.0])  # distance 3 in a cell of class 2
    student[0, :, 0, 3] = 100.0  # not asked for
    assert distance(student, imagenet, label, 1, 2).item() == pytest.approx((5 + 3) / 4)


def test_equal_features_and_missing_classes_have_zero_loss_and_zero_gradient() -> None:
    imagenet = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(1, 8, 8, dtype=torch.int64)
    for student, wanted in [(imagenet.clone(), 0), (imagenet + 1, 3)]:
        student.requires_grad_()
        loss = distance(student, imagenet, label, wanted)
        backward(loss)
        assert student.grad is not None
        assert loss.item() == 0
        assert torch.equal(student.grad, torch.zeros_like(imagenet))


def test_labels_that_do_not_fit_the_features_are_refused() -> None:
    features = torch.zeros(1, 4, 2, 2)
    with pytest.raises(ValueError, match=r"9x8 px is no multiple of features \(1, 4, 2, 2\)"):
        distance(features, features, torch.zeros(1, 9, 8, dtype=torch.int64), 0)
