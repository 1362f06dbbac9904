"""Case 14: one whole training step, through the function that training calls.

Offline training differs from the official step in one place on purpose: the teacher features of the
mixed image are mixed, not computed. Here they are the recorded ones.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import SegformerModel

from stages.device import float32_on_gpu
from stages.student.heads import DAFormerHead
from stages.student.mit import MiT, build_backbone
from stages.student.student import Student
from stages.student.weights import import_official
from stages.train.adaptation.augment import StrongDraw, mask_images
from stages.train.adaptation.pseudo_labels import PseudoLabels, pseudo_weight, valid_pixels
from stages.train.config import OptimizerConfig, TrainConfig
from stages.train.crops import Batch
from stages.train.models import ImageNetReference, Models, without_noise
from stages.train.regularizers.cross_attention import CrossAttentionBranch
from stages.train.state import build_optimizer
from stages.train.step import Draws, Mixed, StepResult, draw_step, train_step
from tests.official import export_official, pixel_accuracy
from tests.parity.cases import Case, Reference, assert_close
from tests.train.example import train_config

LEVEL = "stride8"
LOSS_LOGS = {
    "clean": "decode.loss_seg",
    "enhanced_source": "enhanced.loss_seg",
    "feature_distance": "src.loss_imnet_feat_dist",
    "mix": "mix.decode.loss_seg",
    "enhanced_mix": "enhanced_mix.loss_seg",
    "masked": "masked.decode.loss_seg",
}
LOGITS = ("clean", "enhanced_src", "mix", "enhanced_mix", "masked")
CPU = torch.device("cpu")
NO_DRAW = [StrongDraw(None, None)]


@dataclass
class Run:
    """One step, its networks, and what hooks saw on the way."""

    models: Models
    config: TrainConfig
    batch: Batch
    result: StepResult
    logits: list[Tensor] = field(default_factory=list)
    ema_logits: list[Tensor] = field(default_factory=list)
    features: list[list[Tensor]] = field(default_factory=list)
    enhanced: list[list[Tensor]] = field(default_factory=list)

    def gradients(self) -> dict[str, Tensor]:
        """Gradients in the official layout and names."""
        named: list[tuple[str, nn.Parameter]] = [
            *self.models.student.named_parameters(),
            *(self.models.regularizer or nn.Module()).named_parameters(),
        ]
        found = {name: p.grad for name, p in named if p.grad is not None}
        return {full_name(name): gradient for name, gradient in export_official(found).items()}


@pytest.fixture(scope="module")
def case(reference: Reference) -> Case:
    return reference("ssr_step")


@pytest.fixture(scope="module", params=["fd", "nofd", "mic", "iter0", "step"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def run(request: pytest.FixtureRequest, case: Case, variant: str) -> Run:
    with float32_on_gpu("highest"):
        return run_variant(case, variant, torch.device(request.param))


def test_pseudo_labels_and_confidence(case: Case, variant: str, run: Run) -> None:
    assert run.result.pseudo is not None
    label, confidence, _ = run.result.pseudo
    assert float(confidence) == pytest.approx(ratio(case, variant), abs=1e-7)
    if f"out/{variant}/pseudo_label" in case.arrays:
        assert (label != case.tensor(f"out/{variant}/pseudo_label")).sum() <= 2
    if f"out/{variant}/pseudo_weight_raw" in case.arrays:
        raw = pseudo_weight(confidence, torch.ones_like(label, dtype=torch.bool))
        assert_close(raw, case[f"out/{variant}/pseudo_weight_raw"], 1e-7)
    if f"out/{variant}/ema_logits_lowres" in case.arrays:
        assert_close(run.ema_logits[0], case[f"out/{variant}/ema_logits_lowres"], 5e-5)


def test_mixed_images_labels_and_weights(case: Case, variant: str, run: Run) -> None:
    mixed = run.result.mixed
    assert mixed is not None
    found = {
        "mask": mixed.mask.long(),
        "mixed_img": mixed.image,
        "mixed_label": mixed.label.unsqueeze(1),
    }
    for name, value in found.items():
        if f"out/{variant}/{name}" in case.arrays:
            assert torch.equal(value, case.tensor(f"out/{variant}/{name}")), name
    if f"out/{variant}/mixed_weight" in case.arrays:
        expected = case.tensor(f"out/{variant}/mixed_weight")
        torch.testing.assert_close(mixed.weight, expected, atol=1e-7, rtol=0)


def test_masked_images_labels_and_weights(case: Case, variant: str, run: Run) -> None:
    if run.config.masking is None:
        assert f"out/{variant}/mic_img" not in case.arrays
        return
    assert run.result.pseudo is not None
    label, confidence, _ = run.result.pseudo
    blocks = case.tensor(f"out/{variant}/mic_uniform")
    masked = mask_images(run.batch.target_image, blocks, run.config.masking.ratio)
    assert torch.equal(masked, case.tensor(f"out/{variant}/mic_img"))
    assert torch.equal(label, case.tensor(f"out/{variant}/mic_label").view_as(label))
    weight = pseudo_weight(confidence, run.batch.target_valid)
    assert_close(weight, case[f"out/{variant}/mic_weight"], 1e-7)


def test_losses_and_accuracies(case: Case, variant: str, run: Run) -> None:
    source = "fd" if variant == "step" else variant  # `step` is `fd` with an update, without logs
    recorded = {key.rpartition("/")[2] for key in case.keys(f"out/{source}/log/")}
    expected = {loss for loss, log in LOSS_LOGS.items() if log in recorded}
    assert set(run.result.losses) == expected
    for loss in expected:
        assert_close(run.result.losses[loss], case[f"out/{source}/log/{LOSS_LOGS[loss]}"], 1e-5)

    assert run.result.mixed is not None
    assert run.result.pseudo is not None
    labels = [run.batch.source_label] * 2 + [run.result.mixed.label] * 2
    logs = ["decode", "enhanced", "mix.decode", "enhanced_mix"]
    if "masked" in expected:
        labels.append(run.result.pseudo.label)
        logs.append("masked.decode")
    for logits, label, log in zip(run.logits, labels, logs, strict=True):
        accuracy = float(pixel_accuracy(logits, label))
        assert accuracy == pytest.approx(float(case[f"out/{source}/log/{log}.acc_seg"]), abs=0.01)


def test_logits_and_features_of_every_branch(case: Case, variant: str, run: Run) -> None:
    for name, logits in zip(LOGITS, run.logits, strict=False):
        if f"out/{variant}/logits/{name}" in case.arrays:
            assert_close(logits, case[f"out/{variant}/logits/{name}"], 5e-5)
    kinds = {"src": run.features[0], "enh_src": run.enhanced[0], "enh_mix": run.enhanced[1]}
    for kind, maps in kinds.items():
        for stage, map_ in enumerate(maps):
            if f"out/{variant}/feat/{kind}{stage}" in case.arrays:
                assert_close(map_, case[f"out/{variant}/feat/{kind}{stage}"], 5e-5)


def test_gradients_of_every_parameter(case: Case, variant: str, run: Run) -> None:
    if f"out/{variant}/grad_norms" not in case.arrays:
        variant = "fd"  # `step` takes the gradients of `fd`
        assert not run.config.masking
    gradients = run.gradients()
    names = case.meta["variants"][variant]["grad_names"]
    assert sorted(gradients) == sorted(names)
    for name, expected in zip(names, case[f"out/{variant}/grad_norms"], strict=True):
        assert float(gradients[name].norm()) == pytest.approx(float(expected), rel=1e-3), name
    for key in case.keys(f"out/{variant}/grad/"):
        name, expected = key.removeprefix(f"out/{variant}/grad/"), case.tensor(key)
        error = (gradients[name] - expected).norm()
        assert error <= 1e-3 * expected.norm(), name


def test_ema_model_and_batch_norms(case: Case, variant: str, run: Run) -> None:
    assert run.models.ema is not None
    ema = export_official(run.models.ema.state_dict())
    student = export_official(run.models.student.state_dict())
    for key in case.keys(f"out/{variant}/ema/"):
        name = key.removeprefix(f"out/{variant}/ema/ema_model.")
        assert_close(ema[name], case[key], 1e-6)
    for key in case.keys(f"out/{variant}/buf/"):
        model, _, name = key.removeprefix(f"out/{variant}/buf/").partition(".")
        if model == "imnet_model":  # official: a whole segmentor whose head nothing runs; ours
            continue  # has the backbone alone, which has no batch norm
        assert_close({"model": student, "ema_model": ema}[model][name], case[key], 5e-6)
    passes = 5 if run.config.masking else 4
    for name, count in student.items():
        if name.endswith("num_batches_tracked"):
            assert int(count) == passes, name
            assert int(ema[name]) == 1, name


def test_weights_after_adamw(case: Case) -> None:
    keys = case.keys("out/step/after_adamw/")
    assert keys
    run = run_variant(case, "step")
    settings = case.meta["optimizer"]
    base, head = settings["lr"], settings["paramwise_cfg"]["custom_keys"]["head"]["lr_mult"]
    optimizer = build_optimizer(
        run.models.student,
        run.models.regularizer,
        OptimizerConfig(
            lr=base,
            head_lr_factor=head,
            regularizer_lr_factor=1.0,
            weight_decay=settings["weight_decay"],
            betas=settings["betas"],
            warmup_iterations=0,
            warmup_ratio=1.0,
            power=1.0,
        ),
    )
    gradients = run.gradients()
    optimizer.step()
    assert run.models.regularizer is not None
    after = export_official(
        {**run.models.student.state_dict(), **run.models.regularizer.state_dict()}
    )
    after = {full_name(name): tensor for name, tensor in after.items()}
    for key in keys:
        name = key.removeprefix("out/step/after_adamw/")
        # a first Adam step is lr * sign(gradient), which is noise where the gradient is tiny
        sure = gradients[name].abs() > 1e-5
        difference = (after[name] - case.tensor(key)).abs()[sure]
        assert difference.numel() == 0 or float(difference.max()) <= 3e-7, name


def test_classes_are_drawn_as_officially_from_the_whole_batch(case: Case) -> None:
    """The number of classes per image, and that ignore is one of them."""
    labels = case.tensor("in/label").squeeze(1)
    config = train_config(self_training={"start": 0, "class_pool": "batch"})
    draws = draw_step(config, labels, 0)
    assert draws is not None
    assert [len(ids) for ids in draws.classes] == [case["out/fd/choice"].shape[1]] * len(labels)


def run_variant(case: Case, variant: str, device: torch.device = CPU) -> Run:
    """Run a step on a device; everything is on the CPU when this returns."""
    meta, settings = case.meta, case.meta["variants"][variant]
    height, width = case["in/label"].shape[-2:]
    student, ema = build_student(case, "model."), without_noise(build_student(case, "ema_model."))
    regularizer = build_regularizer(case)
    fdist = meta["fdist"]
    imagenet = None
    if settings["fdist"]:
        imagenet = ImageNetReference(build_imagenet(case), fdist["classes"])
    models = Models(student, ema, regularizer, imagenet)
    config = train_config(
        self_training={
            "start": 0,
            "ema_decay": meta["alpha"],
            "threshold": meta["pseudo_threshold"],
        },
        regularizer={"on": ["source", "mixed"], "levels": [LEVEL] * 4},
        feature_distance={
            "weight": fdist["lambda_"],
            "classes": ["by id"],
            "min_share": fdist["min_ratio"],
        },
        masking={
            "block_px": meta["mic"]["mask_block_size"],
            "ratio": meta["mic"]["mask_ratio"],
            "weight": 1.0,
        }
        if settings["mic"]
        else None,
    )
    label = case.tensor("in/label").squeeze(1)
    valid = valid_pixels(
        origin_px=(0, 0),
        crop_px=(height, width),
        image_px=(height, width),
        margins_px=(meta["ignore_top"], meta["ignore_bottom"], 0, 0),
    )
    sam_source = {LEVEL: case.tensor("in/sam_src")}
    sam_mixed = {LEVEL: case.tensor("in/sam_mix")}
    batch = Batch(
        source_image=case.tensor("in/img"),
        source_label=label,
        source_features=sam_source,
        target_image=case.tensor("in/target_img"),
        target_valid=valid.expand(len(label), -1, -1),
        target_features={},
    )
    unique = torch.unique(label)
    draws = Draws(
        classes=[unique[row].tolist() for row in case.tensor("out/fd/choice")],
        mixed=NO_DRAW,
        masked=NO_DRAW,
        blocks=case.tensor(f"out/{variant}/mic_uniform") if settings["mic"] else None,
    )
    run = Run(models, config, batch, StepResult({}, None, None, {}))
    student.head.register_forward_hook(lambda *a: run.logits.append(a[2].detach().cpu()))
    ema.head.register_forward_hook(lambda *a: run.ema_logits.append(a[2].detach().cpu()))

    def fused(_: nn.Module, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        run.features.append([map_.detach().cpu() for map_ in inputs[0]])
        run.enhanced.append([map_.detach().cpu() for map_ in output])

    regularizer.register_forward_hook(fused)

    def recorded(*_: object) -> Mapping[str, Tensor]:
        return {level: maps.to(device) for level, maps in sam_mixed.items()}

    iteration = settings["local_iter"]
    models.set_up(config, device)
    losses, pseudo, mixed, _ = train_step(
        models, batch.to(device), draws, config=config, iteration=iteration, mixer=recorded
    )
    models.set_up(config, CPU)
    assert pseudo is not None
    assert mixed is not None
    run.result = StepResult(
        {name: loss.cpu() for name, loss in losses.items()},
        PseudoLabels(*(each.cpu() for each in pseudo)),
        Mixed(*(each.cpu() for each in mixed)),
        {},
    )
    return run


def build_student(case: Case, prefix: str) -> Student:
    official = case.params(f"param/{prefix}")
    heads = case.meta["head_embed_dims"], case.meta["head_channels"]
    num_classes = len(official["decode_head.conv_seg.bias"])
    student = Student(
        build_mit(case),
        DAFormerHead(case.meta["dims"], *heads, num_classes, dropout=0.0),
    )
    load(student, official)
    # the reference counts its batches from the loaded statistics, we from zero
    for name, buffer in student.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.zero_()
    return student.train()


def build_imagenet(case: Case) -> SegformerModel:
    backbone = build_mit(case).eval().requires_grad_(False)
    load(nn.ModuleDict({"backbone": backbone}), case.params("param/imnet_model."))
    return backbone


def build_regularizer(case: Case) -> CrossAttentionBranch:
    meta = case.meta
    channels = case["in/sam_src"].shape[1]
    regularizer = CrossAttentionBranch(
        meta["dims"], {LEVEL: channels}, meta["heads"], [LEVEL] * len(meta["dims"])
    )
    official = {
        name: tensor
        for name, tensor in case.params("param/").items()
        if name.startswith(("embedding_layer.", "fusion_layer."))
    }
    load(regularizer, official)
    return regularizer


def build_mit(case: Case) -> SegformerModel:
    meta = case.meta
    mit = MiT(
        tuple(meta["dims"]), tuple(meta["depths"]), tuple(meta["heads"]), tuple(meta["sr_ratios"])
    )
    return build_backbone(mit, drop_path=0.0, norm_eps=1e-6)


def load(module: nn.Module, official: Mapping[str, Tensor]) -> None:
    tensors, unknown = import_official(official)
    assert not unknown
    state = {**copy.copy(module.state_dict()), **tensors}
    counters = {name for name in module.state_dict() if name.endswith("num_batches_tracked")}
    assert set(tensors) | counters == set(module.state_dict())
    module.load_state_dict(state)


def full_name(official: str) -> str:
    """Give students the prefix that whole trainings have."""
    return official if official.startswith(("embedding", "fusion")) else f"model.{official}"


def ratio(case: Case, variant: str) -> float:
    return float(np.float32(case.meta["variants"][variant]["pseudo_ratio"]))
