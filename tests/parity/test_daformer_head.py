"""Case 2: DAFormer's head and the segmentation loss on its logits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stages.student.heads import DAFormerHead
from stages.student.weights import import_official
from stages.train.adaptation.losses import segmentation_loss
from tests.official import export_official, pixel_accuracy
from tests.parity.cases import Case, Reference, assert_close

TOL = 1e-5
LOSS_TOL = 1e-6
LOSS_GRADIENT_TOL = 1e-4  # of the gradient's own maximum

modes = pytest.mark.parametrize("mode", ["train", "eval"])


def build(case: Case, mode: str) -> DAFormerHead:
    meta = case.meta
    assert (meta["sep"], meta["pool"], meta["align_corners"]) == (True, False, False)
    head = DAFormerHead(
        meta["dims"],
        meta["embed_dims"],
        meta["channels"],
        meta["num_classes"],
        dropout=meta["dropout_ratio"],
        dilations=meta["dilations"],
    )
    official = {f"decode_head.{name}": t for name, t in case.params("param/").items()}
    tensors, unknown = import_official(official)
    assert not unknown
    nn.ModuleDict({"head": head}).load_state_dict(tensors)
    norms = [module for module in head.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(n.eps, n.momentum) for n in norms} == {(meta["bn_eps"], meta["bn_momentum"])}
    return head.train(mode == "train")


def run(
    case: Case, mode: str, objective: Callable[[Tensor], Tensor]
) -> tuple[DAFormerHead, list[Tensor], Tensor, Tensor]:
    """Run forward and backward: the head, its inputs (with gradients), logits, objective."""
    head = build(case, mode)
    features = [case.tensor(f"in/feat{i}").requires_grad_() for i in range(len(case.meta["dims"]))]
    logits = head(features)
    value = objective(logits)
    value.backward()  # type: ignore[no-untyped-call]
    return head, features, logits, value


@modes
def test_logits_and_their_gradients_are_the_official_ones(reference: Reference, mode: str) -> None:
    case = reference("daformer_head")
    cotangent = case.tensor("in/cotangent")
    head, features, logits, _ = run(case, mode, lambda logits: (logits * cotangent).sum())
    out = f"out/{mode}"
    assert_close(logits, case[f"{out}/logits"], TOL)
    for i, feature in enumerate(features):
        assert feature.grad is not None
        assert_close(feature.grad, case[f"{out}/cot/grad_feat{i}"], TOL)
    gradients = official_of(head, {n: p.grad for n, p in head.named_parameters()})
    names = case.meta["param_grad_names"]
    assert sorted(gradients) == sorted(names)
    norms = torch.stack([gradients[name].norm() for name in names])
    assert_close(norms, case[f"{out}/cot/param_grad_norms"], TOL)
    weight = gradients["conv_seg.weight"]
    assert_close(weight, case[f"{out}/cot/grad_conv_seg_weight"], TOL)
    weight = gradients["fuse_layer.bottleneck.bn.weight"]
    assert_close(weight, case[f"{out}/cot/grad_bottleneck_bn_weight"], TOL)


@modes
@pytest.mark.parametrize("name", ["loss", "loss_weighted"])
def test_loss_and_its_gradients_are_the_official_ones(
    reference: Reference, mode: str, name: str
) -> None:
    case = reference("daformer_head")
    label = case.tensor("in/label").squeeze(1)
    weight = case.tensor("in/seg_weight") if name == "loss_weighted" else None
    _, features, logits, loss = run(
        case, mode, lambda logits: segmentation_loss(logits, label, weight)
    )
    assert_close(loss, case[f"out/{mode}/{name}"], LOSS_TOL)
    for i, feature in enumerate(features):
        expected = case.tensor(f"out/{mode}/{name}/grad_feat{i}")
        assert feature.grad is not None
        worst = (feature.grad - expected).abs().max()
        assert worst <= LOSS_GRADIENT_TOL * expected.abs().max()
    accuracy = pixel_accuracy(logits, label)
    assert_close(accuracy.reshape(1), case[f"out/{mode}/acc_seg"], TOL)


def test_running_statistics_after_one_batch_are_the_official_ones(reference: Reference) -> None:
    case = reference("daformer_head")
    head, *_ = run(case, "train", Tensor.sum)
    buffers = official_of(head, dict(head.named_buffers()))
    expected = case.params("out/train/buffers_after/")
    assert expected
    for name, statistic in expected.items():
        assert_close(buffers[name], statistic, TOL)


def official_of(head: nn.Module, tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    found = {f"head.{name}": t for name, t in tensors.items() if t is not None}
    return {n.removeprefix("decode_head."): t for n, t in export_official(found).items()}
