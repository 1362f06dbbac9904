import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.train.adaptation.pseudo_labels import pseudo_labels, pseudo_weight, valid_pixels


def logits_of(*probabilities: float) -> torch.Tensor:
    """Logits (1, 2, 1, W) whose class 0 has these probabilities."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([p, 1 - p]).log().float().view(1, 2, 1, -1)


def test_labels_are_the_most_probable_classes() -> None:
    assert pseudo_labels(logits_of(0.9, 0.2, 0.6), (1, 3), 0.8).label.tolist() == [[[0, 1, 0]]]


def test_confidence_is_the_share_of_confident_pixels_of_any_class() -> None:
    assert pseudo_labels(logits_of(0.9, 0.1, 0.6, 0.7), (1, 4), 0.8).confidence.item() == 0.5


def test_confidence_is_shared_by_the_images_of_a_batch() -> None:
    sure, unsure = logits_of(0.99, 0.99), logits_of(0.6, 0.6)
    assert pseudo_labels(torch.cat([sure, unsure]), (1, 2), 0.9).confidence.item() == 0.5


def test_logits_are_enlarged_before_the_softmax() -> None:
    # Bilinear from +2 and -2 at positions (i + 0.5) / 4 - 0.5: +2, +2, +1.5, +0.5 and the mirror.
    logits = torch.tensor([[[[2.0, -2.0]], [[0.0, 0.0]]]])
    result = pseudo_labels(logits, (1, 8), 0.0)
    assert result.label.tolist() == [[[0, 0, 0, 0, 1, 1, 1, 1]]]
    sigmoid = torch.sigmoid(torch.tensor([2.0, 2.0, 1.5, 0.5]))
    for threshold, expected in [(0.6, 1.0), (0.7, 0.75), (0.85, 0.5), (0.9, 0.0)]:
        assert (sigmoid >= threshold).float().mean().item() == expected
        assert pseudo_labels(logits, (1, 8), threshold).confidence.item() == expected


def test_half_precision_logits_are_judged_in_float32() -> None:
    logits = torch.tensor([3.5, 0.0]).view(1, 2, 1, 1)
    exact = torch.softmax(logits, dim=1).max().item()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert pseudo_labels(logits.to(dtype), (1, 1), exact).confidence.item() == 1


def test_weights_are_the_confidence_or_zero() -> None:
    valid = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.3
    weight = pseudo_weight(torch.tensor(0.25), valid)
    assert weight.dtype == torch.float32
    assert torch.equal(weight, torch.where(valid, 0.25, 0.0))


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    y=st.integers(0, 40),
    x=st.integers(0, 40),
    crop=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    top=st.integers(0, 20),
    bottom=st.integers(0, 20),
)
def test_validity_of_a_crop_is_a_crop_of_the_validity_of_the_image(
    height: int, width: int, y: int, x: int, crop: tuple[int, int], top: int, bottom: int
) -> None:
    padded = torch.zeros(100, 100, dtype=torch.bool)
    padded[top : max(height - bottom, 0), :width] = True
    got = valid_pixels(
        origin_px=(y, x),
        crop_px=crop,
        image_px=(height, width),
        ignore_top_px=top,
        ignore_bottom_px=bottom,
    )
    assert torch.equal(got, padded[y : y + crop[0], x : x + crop[1]])


@pytest.mark.parametrize(("y", "rows"), [(0, slice(15, 256)), (256, slice(0, 136))])
def test_margins_are_rows_of_the_image_not_of_the_crop(y: int, rows: slice) -> None:
    got = valid_pixels(
        origin_px=(y, 0),
        crop_px=(256, 4),
        image_px=(512, 1024),
        ignore_top_px=15,
        ignore_bottom_px=120,
    )
    expected = torch.zeros(256, 4, dtype=torch.bool)
    expected[rows] = True
    assert torch.equal(got, expected)
