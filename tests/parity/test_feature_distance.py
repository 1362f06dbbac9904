"""Case 8: distance to ImageNet features on cells of thing classes."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from stages.train.adaptation.losses import cells_of, downscale_label, feature_distance
from tests.parity.cases import Case, Reference, assert_close

TOL = 1e-6


def distance(
    case: Case, label: str, classes: Sequence[int] | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The scaled loss and its gradient by the student's features."""
    features = case.tensor("in/feat").requires_grad_()
    cells = torch.ones_like(features[:, 0], dtype=torch.bool)
    if classes is not None:
        cells = things(case, label)
    loss = scale * feature_distance(features, case.tensor("in/imnet_feat"), cells)
    loss.backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    return loss, features.grad


def things(case: Case, label: str) -> Tensor:
    return cells_of(
        case.tensor(label).squeeze(1),
        case.meta["scale_factor"],
        num_classes=case.meta["num_classes"],
        classes=case.meta["thing_classes"],
        min_share=case.meta["scale_min_ratio"],
    )


def downscaled(case: Case, label: str, min_share: float) -> Tensor:
    cell_px = case.tensor(label).shape[-1] // case.tensor("in/feat").shape[-1]
    assert cell_px == case.meta["scale_factor"]
    return downscale_label(
        case.tensor(label).squeeze(1), cell_px, case.meta["num_classes"], min_share
    )


@pytest.mark.parametrize("subcase", ["things", "all"])
def test_loss_and_gradient_are_the_official_ones(reference: Reference, subcase: str) -> None:
    case = reference("feature_distance")
    classes = case.meta["thing_classes"] if subcase == "things" else None
    loss, gradient = distance(case, "in/label", classes, case.meta["lambda_"])
    expected = case.tensor(f"out/{subcase}/grad")
    assert_close(loss, case[f"out/{subcase}/loss"], TOL)
    assert_close(gradient, expected, TOL)
    # Gradients are far below 1, where the tolerance above is weak.
    assert float((gradient - expected).abs().max() / expected.abs().max()) < 1e-5


def test_the_unscaled_distance_is_the_official_one(reference: Reference) -> None:
    case = reference("feature_distance")
    loss, _ = distance(case, "in/label", case.meta["thing_classes"], 1)
    assert_close(loss, case["out/things/unscaled"], TOL)


def test_without_a_cell_the_loss_is_zero_where_the_official_one_is_nan(
    reference: Reference,
) -> None:
    # Differs from SSR: the NaN survives there only because this loss has a backward pass of its
    # own. The gradient is the same: zero.
    case = reference("feature_distance")
    assert torch.isnan(case.tensor("out/empty/loss"))
    loss, gradient = distance(
        case, "in/label_empty", case.meta["thing_classes"], case.meta["lambda_"]
    )
    assert loss.item() == 0
    assert torch.equal(gradient, case.tensor("out/empty/grad"))


def test_labels_are_downscaled_as_officially(reference: Reference) -> None:
    case = reference("feature_distance")
    share = case.meta["scale_min_ratio"]
    for key, label, min_share in [
        ("out/things/label_down", "in/label", share),
        ("out/empty/label_down", "in/label_empty", share),
        *(
            (key, "in/label", float(key.removeprefix("out/label_down_ratio")))
            for key in case.keys("out/label_down_ratio")
        ),
    ]:
        assert torch.equal(downscaled(case, label, min_share), case.tensor(key).squeeze(1))


def test_the_cells_that_count_are_the_official_ones(reference: Reference) -> None:
    case = reference("feature_distance")
    for subcase, label in [("things", "in/label"), ("empty", "in/label_empty")]:
        mask = case.tensor(f"out/{subcase}/mask").squeeze(1)
        assert torch.equal(things(case, label), mask.bool())
