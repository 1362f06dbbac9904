import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stages.prepare.labels import IGNORE
from stages.train.adaptation.augment import draw_blocks, mix_features
from stages.train.adaptation.losses import (
    cells_of,
    feature_distance,
    segmentation_loss,
)
from stages.train.adaptation.pseudo_labels import most_probable, valid_pixels, weighted
from store.errors import ConfigError


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def test_a_batch_without_labelled_pixels_has_zero_loss_and_gradient() -> None:
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 8, 8), IGNORE))
    backward(loss)
    assert logits.grad is not None
    assert loss.item() == 0
    assert not logits.grad.any()


def distance(student: Tensor, imagenet: Tensor, label: Tensor, *classes: int) -> Tensor:
    cell_px = label.shape[-1] // student.shape[-1]
    cells = cells_of(label, cell_px, num_classes=5, classes=classes, min_share=0.75)
    return feature_distance(student, imagenet, cells)


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


def test_a_block_larger_than_the_crop_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"set train\.masking\.block_px to 32 or less") as caught:
        draw_blocks(np.random.default_rng(0), 1, (32, 64), 96)
    assert "\n" not in str(caught.value)


def test_each_token_is_mixed_by_its_share_of_source_pixels() -> None:
    mask = torch.zeros(1, 1, 32, 64, dtype=torch.bool)
    mask[..., :32, :32] = True  # four tokens of stride 16, one of stride 32
    mask[..., :4, 48:56] = True  # 32 of the 256 pixels of a token of stride 16
    source = {"stride16": torch.full((1, 5, 2, 4), 8.0), "stride32": torch.full((1, 2, 1, 2), 64.0)}
    target = {level: torch.zeros_like(features) for level, features in source.items()}
    mixed = mix_features(mask, source, target)
    expected = torch.tensor([[8.0, 8.0, 0.0, 1.0], [8.0, 8.0, 0.0, 0.0]])
    assert torch.equal(mixed["stride16"], expected.expand(1, 5, 2, 4))
    assert torch.equal(mixed["stride32"], torch.tensor([64.0, 2.0]).expand(1, 2, 1, 2))


def test_half_precision_logits_are_judged_in_float32() -> None:
    logits = torch.tensor([3.5, 0.0]).view(1, 2, 1, 1)
    exact = torch.softmax(logits, dim=1).max().item()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert weighted(*most_probable(logits.to(dtype), (1, 1)), exact).confidence.item() == 1


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    y=st.integers(0, 40),
    x=st.integers(0, 40),
    crop=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    top=st.integers(0, 20),
    bottom=st.integers(0, 20),
    side=st.integers(0, 20),
)
def test_validity_of_a_crop_is_a_crop_of_the_validity_of_the_image(
    height: int, width: int, y: int, x: int, crop: tuple[int, int], top: int, bottom: int, side: int
) -> None:
    padded = torch.zeros(100, 100, dtype=torch.bool)
    padded[top : max(height - bottom, 0), side : max(width - side, 0)] = True
    got = valid_pixels(
        origin_px=(y, x),
        crop_px=crop,
        image_px=(height, width),
        margins_px=(top, bottom, side, side),
    )
    assert torch.equal(got, padded[y : y + crop[0], x : x + crop[1]])
