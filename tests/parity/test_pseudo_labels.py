"""Case 4: labels and confidence of the EMA model."""

import torch
from torch import Tensor

from stages.train.adaptation.pseudo_labels import (
    most_probable,
    pseudo_weight,
    valid_pixels,
    weighted,
)
from tests.parity.cases import Case, Reference, assert_close


def weight(case: Case, name: str, valid: Tensor | None = None) -> Tensor:
    """Our weight for the recorded logits, with everything valid unless told."""
    logits = case.tensor(f"in/{name}")
    size = (logits.shape[-2], logits.shape[-1])
    threshold = case.meta["tie_threshold" if name == "tie_logits" else "threshold"]
    confidence = weighted(*most_probable(logits, size), threshold).confidence
    everywhere = torch.ones(len(logits), *size, dtype=torch.bool)
    return pseudo_weight(confidence, everywhere if valid is None else valid)


def test_labels_are_the_official_ones(reference: Reference) -> None:
    case = reference("pseudo_labels")
    expected = case.tensor("out/label")
    size = expected.shape[1], expected.shape[2]
    _, label = most_probable(case.tensor("in/logits"), size)
    assert torch.equal(label, expected)


def test_the_weight_is_the_official_share_of_the_whole_batch(reference: Reference) -> None:
    case = reference("pseudo_labels")
    got = weight(case, "logits")
    assert_close(got, case["out/weight_raw"], 1e-7)
    assert_close(got, case["out/weight_no_border"], 1e-7)
    assert float(got.min()) == float(got.max())
    ratios = case.meta["per_image_ratio"]
    assert max(ratios) > min(ratios), "the case cannot tell a batch's share from an image's"


def test_a_probability_at_the_threshold_counts(reference: Reference) -> None:
    case = reference("pseudo_labels")
    assert_close(weight(case, "tie_logits"), case["out/tie_weight"], 1e-7)


def test_margin_rows_lose_their_weight_after_the_share_is_taken(reference: Reference) -> None:
    case = reference("pseudo_labels")
    expected = case.tensor("out/weight_border")
    size = (expected.shape[1], expected.shape[2])
    valid = valid_pixels(
        origin_px=(0, 0),
        crop_px=size,
        image_px=size,
        margins_px=(case.meta["ignore_top"], case.meta["ignore_bottom"], 0, 0),
    )
    assert_close(weight(case, "logits", valid.expand(expected.shape)), expected, 1e-7)


def test_a_mask_of_valid_pixels_multiplies_the_weight(reference: Reference) -> None:
    # The official code refuses margins together with such a mask (meta.border_with_valid_mask);
    # here margins are one.
    case = reference("pseudo_labels")
    valid = case.tensor("in/valid_pseudo_mask").squeeze(1)
    assert_close(weight(case, "logits", valid), case["out/weight_valid_mask"], 1e-7)
