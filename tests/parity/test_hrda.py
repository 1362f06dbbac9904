"""HRDA against the numbers of the official code, from boxes to a whole step with MIC."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.prepare.geometry import Size
from stages.student import hrda
from stages.student.heads import DAFormerHead
from stages.student.mit import BACKBONES, MiT, build_backbone
from stages.student.student import Pass, Student
from stages.student.weights import import_official
from stages.train import step
from stages.train.adaptation import pseudo_labels as labels_of_ema
from stages.train.adaptation.augment import StrongDraw
from stages.train.adaptation.losses import segmentation_loss, upsample_logits
from stages.train.crops import Batch
from stages.train.models import ImageNetReference, Models, without_noise
from stages.train.step import Draws, train_step
from store.errors import ConfigError
from tests.official import export_official, pixel_accuracy
from tests.parity.cases import Case, Reference, assert_close
from tests.parity.checks import Check, assert_own, check_all, planted
from tests.train.example import train_config

KEYS = "hrda_head_full_keys"
NOTHING_TO_LEARN = re.compile(r"scale_attention\.embed_layers\.\d\.proj\.bias")
"""Batch norm follows these biases: their gradient is rounding noise."""


class TwoScales(nn.Module):
    """A student and its scale attention, as an official checkpoint of HRDA has them."""

    def __init__(self, module: ModuleType, case: Case, prefix: str = "") -> None:
        super().__init__()
        meta, config = case.meta, case.meta["config"]
        assert meta["os"] == module.LOGIT_STRIDE_PX
        assert module.CONTEXT_SCALE == meta["scales_sorted"][0] == meta["feature_scale"]
        assert meta["crop_coord_divisible"] == module.ALIGN_PX
        assert meta["hr_loss_weight"] == module.DETAIL_WEIGHT
        assert meta["official_dropout_ratio"] == module.DROPOUT
        self.module, self.window = module, tuple(config["hr_crop"])
        ratio, *others = meta["mlp_ratios"]
        assert set(others) == {ratio}
        mit = MiT(
            widths=tuple(config["dims"]),
            depths=tuple(config["depths"]),
            heads=tuple(config["heads"]),
            reductions=tuple(meta["sr_ratios"]),
            mlp_ratio=ratio,
        )
        head = DAFormerHead(
            config["dims"],
            config["embed"],
            config["channels"],
            config["ncls"],
            dropout=meta["dropout_ratio"],
            dilations=meta["dilations"],
        )
        backbone = build_backbone(mit, drop_path=0.0, norm_eps=meta["backbone_norm_eps"])
        self.attention = module.ScaleAttention(
            config["dims"],
            config["ncls"],
            channels=config["att_dim"],
            dropout=meta["dropout_ratio"],
        )
        self.student = Student(backbone, head, None, self.attention, self.window[0])
        norms = [each for each in self.modules() if isinstance(each, nn.BatchNorm2d)]
        assert {(n.eps, n.momentum) for n in norms} == {(meta["bn_eps"], meta["bn_momentum"])}
        self.load(case.params(f"param/{prefix}"))

    def load(self, official: Mapping[str, Tensor]) -> None:
        tensors, unknown = import_official(named_as_daformer(official))
        missing, unexpected = self.student.load_state_dict(tensors, strict=False)
        assert not unknown
        assert not unexpected
        assert all(name.startswith("backbone.") for name in missing)

    def state(self) -> dict[str, Tensor]:
        """Weights and buffers under their official names."""
        return named_as_hrda(self.student.state_dict())

    def gradients(self) -> dict[str, Tensor]:
        """Gradients under the official names."""
        named = self.student.named_parameters()
        return named_as_hrda({n: w.grad for n, w in named if w.grad is not None})

    def classify(
        self, context: Sequence[Tensor], detail: Sequence[Tensor], box: hrda.Box
    ) -> hrda.Fused:
        fused: hrda.Fused = self.module.classify(
            self.student.classify, self.attention, context, detail, box
        )
        return fused

    def forward(self, images: Tensor, box: hrda.Box) -> tuple[Sequence[Tensor], hrda.Fused]:
        """Context features, and both scales fused."""
        context, detail = self.module.features_of(self.student.features, images, box)
        return context, self.classify(context, detail, box)

    def predict(self, images: Tensor, **windows: Size | None) -> hrda.Fused:
        windows = {"detail_px": self.window, **windows}
        student = self.student
        fused: hrda.Fused = self.module.predict(
            student.features, student.classify, self.attention, images, **windows
        )
        return fused


def named_as_daformer(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the level that HRDA has around DAFormer's head."""
    return {n.replace("decode_head.head.", "decode_head."): t for n, t in official.items()}


def named_as_hrda(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        n if "scale_attention" in n else n.replace("decode_head.", "decode_head.head."): tensor
        for n, tensor in export_official(ours).items()
    }


def check_crop(module: ModuleType, case: Case) -> None:
    for name, sub in case.meta["subcases"].items():
        generator = np.random.RandomState(sub["np_seed"])
        asked: list[tuple[int, int]] = []

        def draw(
            high: int,
            generator: np.random.RandomState = generator,
            asked: list[tuple[int, int]] = asked,
        ) -> int:
            asked.append((high, int(generator.randint(0, high))))
            return asked[-1][1]

        image, crop = tuple(sub["image_hw"]), tuple(sub["crop_hw"])
        boxes = [
            module.draw_box(draw, image, crop, align_px=sub["divisible"])
            for _ in range(sub["draws"])
        ]
        draws = np.array(asked, np.int64).reshape(-1, 2, 2)
        assert np.array_equal(draws[..., 0], case[f"in/{name}/randint_high"])
        assert np.array_equal(draws[..., 1], case[f"in/{name}/randint_value"])
        assert boxes == [tuple(box) for box in case[f"out/{name}/box"].tolist()]
        for cell, key in ((module.LOGIT_STRIDE_PX, "hr"), (module.ALIGN_PX, "lr")):
            scaled = [list(module.box_of_cells(box, cell)) for box in boxes]
            assert scaled == case[f"out/{name}/box_logits_{key}"].tolist()
    for key in case.keys("in/scale"):
        images, part = case.tensor(key), key.split("/")[1]
        context = module.context_images(images)
        assert_close(context, case[f"out/{part}/context"], 1e-6)
        detail = module.crop_to(tuple(case.meta["detail_box"]), images)
        assert torch.equal(detail, case.tensor(f"out/{part}/detail"))
    assert set(case.meta["errors"].values()) == {"ValueError"}
    for image, crop in (((64, 96), (64, 64)), ((64, 64), (58, 58)), ((64, 64), (96, 96))):
        with pytest.raises(ConfigError, match="has no place in a crop"):
            module.draw_box(lambda high: 0, image, crop)


def check_head(module: ModuleType, case: Case) -> None:
    meta = case.meta
    label, weight = case.tensor("in/label").squeeze(1), case.tensor("in/seg_weight")
    for number, sides in enumerate(meta["boxes"]):
        box = tuple(sides)
        for mode in ("train", "eval"):
            part = f"out/box{number}/{mode}"
            if not case.keys(f"{part}/"):
                continue
            for kind in ("plain", "weighted", "cot"):
                if not case.keys(f"{part}/{kind}/"):
                    continue
                network = TwoScales(module, case).train(mode == "train")
                maps = {
                    scale: [case.tensor(f"in/{scale}_feat{j}").requires_grad_() for j in range(4)]
                    for scale in ("lr", "hr")
                }
                seen: list[Tensor] = []
                for each in (network.student.head, network.attention):
                    each.register_forward_hook(lambda *a, seen=seen: seen.append(a[2]))
                fused = network.classify(maps["lr"], maps["hr"], box)
                compare_fused(case, part, fused)
                for name, value in (("lr_logits", seen[0]), ("attention", seen[2].sigmoid())):
                    if f"{part}/{name}" in case.arrays:
                        assert_close(value, case[f"{part}/{name}"], 1e-5)
                used = weight if kind == "weighted" else None
                losses = module.scale_losses(fused, label, used, box=box, loss=segmentation_loss)
                if kind == "cot":
                    total = (fused.logits * case.tensor("in/cotangent")).sum()
                else:
                    total = losses["fused"] + losses["detail"]
                    assert_close(total, case[f"{part}/{kind}/total"], 1e-6)
                    compare_losses(case, f"{part}/{kind}", "", losses)
                    compare_accuracies(case, f"{part}/{kind}", "", module, fused, label, box)
                torch.autograd.backward(total)
                for scale, features in maps.items():
                    for j, map_ in enumerate(features):
                        if f"{part}/{kind}/grad_{scale}_feat{j}" in case.arrays:
                            expected = case.tensor(f"{part}/{kind}/grad_{scale}_feat{j}")
                            assert_own(map_.grad, expected, 1e-4)
                compare_gradients(
                    network, case, f"{part}/{kind}", meta["param_grad_names"], "decode_head.", 1e-4
                )
                key = f"{part}/{kind}/grad_scale_attention.conv_seg.weight"
                if key in case.arrays:
                    gradient = network.gradients()
                    ours = gradient["decode_head.scale_attention.conv_seg.weight"]
                    assert_own(ours, case.tensor(key), 1e-4)
            compare_buffers(network, case, f"{part}/buffers_after/", "decode_head.")
    for key in {key.split("/")[1] for key in case.keys("out/lr_weight")}:
        network = TwoScales(module, case).train()
        maps = {s: [case.tensor(f"in/{s}_feat{j}") for j in range(4)] for s in ("lr", "hr")}
        box = tuple(meta["boxes"][0])
        fused = network.classify(maps["lr"], maps["hr"], box)
        losses = module.scale_losses(
            fused,
            label,
            weight,
            box=box,
            loss=segmentation_loss,
            context_weight=float(key.removeprefix("lr_weight")),
        )
        compare_losses(case, f"out/{key}", "", losses)
        assert_close(losses["context"], case[f"out/{key}/lr.loss_seg"], 1e-6)


def check_segmentor(module: ModuleType, case: Case) -> None:
    meta = case.meta
    images, label = case.tensor("in/img"), case.tensor("in/label").squeeze(1)
    for kind in ("plain", "weighted"):
        part = f"out/{kind}"
        network = TwoScales(module, case).train()
        generator = np.random.RandomState(meta["np_seed"])
        box = module.draw_box(
            generator.randint, tuple(meta["image_hw"]), tuple(meta["config"]["hr_crop"])
        )
        assert list(box) == case[f"{part}/box"].tolist()
        context, fused = network(images, box)
        weight = case.tensor("in/seg_weight") if kind == "weighted" else None
        losses = module.scale_losses(fused, label, weight, box=box, loss=segmentation_loss)
        compare_losses(case, part, "decode.", losses)
        compare_accuracies(case, part, "decode.", module, fused, label, box)
        torch.autograd.backward(losses["fused"] + losses["detail"])
        compare_gradients(network, case, part, meta["param_grad_names"], "", 2e-4)
        for key in case.keys(f"{part}/grad/"):
            ours = network.gradients()[key.removeprefix(f"{part}/grad/")]
            assert_own(ours, case.tensor(key), 2e-4)
        if kind == "plain":
            for j, map_ in enumerate(context):
                assert_close(map_, case[f"{part}/features{j}"], 1e-5)
            assert_close(fused.logits, case[f"{part}/fused"], 1e-5)
            assert_close(fused.detail, case[f"{part}/hr_logits"], 1e-5)
            compare_buffers(network, case, f"{part}/buffers_after/", "")
    network = TwoScales(module, case).eval()
    stage3 = network.student.features(module.context_images(images))[-1]
    assert_close(stage3, case["out/extract_feat/stage3"], 1e-5)


@torch.no_grad()
def check_inference(module: ModuleType, case: Case) -> None:
    rows, columns = slices(case.meta["upscaled_sub"])
    window = tuple(case.meta["config"]["hr_crop"])
    strides = {"overlap": None, "nonoverlap": window, "noslide": None}
    for number, size in enumerate(case.meta["sizes"]):
        for variant, stride in strides.items():
            for mode in ("eval", "train"):
                part = f"out/{number}/{variant}/{mode}"
                if not case.keys(f"{part}/"):
                    continue
                network = TwoScales(module, case).train(mode == "train")
                seen: list[Tensor] = []
                network.student.head.register_forward_hook(lambda *a, seen=seen: seen.append(a[2]))
                detail_px = None if variant == "noslide" else window
                images = case.tensor(f"in/img{number}")
                assert list(images.shape[2:]) == size
                fused = network.predict(images, detail_px=detail_px, stride_px=stride)
                assert_close(fused.logits, case[f"{part}/fused"], 1e-5)
                found: dict[str, Any] = {
                    "attention": fused.attention,
                    "attention_up": double(fused.attention),
                    "lr_scaled_up": double(fused.context),
                    "hr_mean": fused.detail,
                    "lr_logits": seen[0],
                    "window0_logits": seen[1][: len(images)],
                    "window_last_logits": seen[1][-len(images) :],
                    "upscaled_sub": upsample_logits(fused.logits, size)[:, :, rows, columns],
                }
                for name, value in found.items():
                    if f"{part}/{name}" in case.arrays:
                        assert_close(value, case[f"{part}/{name}"], 1e-5)
                compare_buffers(network, case, f"{part}/buffers_after/", "")
                if variant != "noslide":
                    step = stride or (window[0] // 2, window[1] // 2)
                    boxes = module.slide_boxes(tuple(size), window, step)
                    assert [list(box) for box in boxes] == case[f"{part}/windows_img"].tolist()
                    cells = [module.box_of_cells(box, module.LOGIT_STRIDE_PX) for box in boxes]
                    assert [list(b) for b in cells] == case[f"{part}/windows_logits"].tolist()
                    counts = module.window_counts(cells, tuple(fused.logits.shape[2:]))
                    assert torch.equal(counts, case.tensor(f"{part}/count"))


@torch.no_grad()
def check_slide(module: ModuleType, case: Case) -> None:
    config = case.meta["config"]
    crop, stride, window = (tuple(config[key]) for key in ("crop", "stride", "hr_crop"))
    network = TwoScales(module, case).eval()
    images = case.tensor("in/img")
    size = tuple(images.shape[2:])
    rows, columns = slices(case.meta["sub"])
    for variant in ("batched", "unbatched"):
        part = f"out/{variant}"
        boxes = module.slide_boxes(size, crop, stride)
        assert [list(box) for box in boxes] == case[f"{part}/windows"].tolist()
        assert torch.equal(module.window_counts(boxes, size), case.tensor(f"{part}/count"))
        inner = module.slide_boxes(crop, window, (window[0] // 2, window[1] // 2))
        cells = [list(module.box_of_cells(box, module.LOGIT_STRIDE_PX)) for box in inner]
        assert cells == case[f"{part}/detail_windows_logits"].tolist()
        logits = module.sliding_logits(
            lambda each: network.predict(each).logits,
            images,
            window_px=crop,
            stride_px=stride,
        )
        if f"{part}/logits" in case.arrays:
            assert_close(logits, case[f"{part}/logits"], 1e-5)
        else:
            assert_close(logits[..., rows, columns], case[f"{part}/logits_sub"], 1e-5)
        original = upsample_logits(logits, case.meta["ori_hw"])
        if f"{part}/logits_ori_sub" in case.arrays:
            assert_close(original[..., rows, columns], case[f"{part}/logits_ori_sub"], 1e-5)
            probability = original.softmax(1)[..., rows, columns]
            assert_close(probability, case[f"{part}/prob_sub"], 1e-5)
        labels = original.argmax(1)
        assert int((labels != case.tensor(f"{part}/pred")).sum()) <= 3
        assert int((labels.flip(-1) != case.tensor(f"{part}/pred_flip")).sum()) <= 3


def check_margins(module: ModuleType, case: Case) -> None:
    frame = tuple(case.meta["mask_size"])
    for name, sub in case.meta["subcases"].items():
        margins = tuple(sub["margins"])
        whole = module.valid_pixels(
            origin_px=(0, 0), crop_px=frame, image_px=frame, margins_px=margins, frame_px=frame
        )
        assert torch.equal(whole.long(), case.tensor(f"out/{name}/full_mask").long())
        image, crop = (sub["img_scale"][1], sub["img_scale"][0]), sub["crop"]
        origin = tuple(int(value) for kind, _, value in sub["draws"] if kind == "randint")
        mask = module.valid_pixels(
            origin_px=origin,
            crop_px=tuple(crop),
            image_px=image,
            margins_px=margins,
            frame_px=frame,
        )
        inside = [
            min(side, full - first) for side, full, first in zip(crop, image, origin, strict=True)
        ]
        assert not mask[inside[0] :].any()
        assert not mask[:, inside[1] :].any()
        seen = mask[: inside[0], : inside[1]]
        seen = seen.flip(1) if sub["flip"] else seen
        padding = (0, crop[1] - inside[1], 0, crop[0] - inside[0])
        official = F.pad(seen.long(), padding, value=255)  # ours has no weight there
        assert torch.equal(official, case.tensor(f"out/{name}/mask")[0].long())


def check_mic_step(module: ModuleType, case: Case) -> None:
    """One iteration of DACS and MIC, as training has it."""
    meta, fdist = case.meta, case.meta["fdist"]
    size, window = tuple(meta["image_hw"]), tuple(meta["config"]["hr_crop"])
    label = case.tensor("in/label").squeeze(1)
    generator = np.random.RandomState(meta["np_seed"])

    def draw() -> hrda.Box:
        box: hrda.Box = module.draw_box(generator.randint, size, window)
        return box

    boxes = [draw()]
    present = torch.unique(label)
    choice = [generator.choice(len(present), (len(present) + 1) // 2, replace=False) for _ in label]
    boxes += [draw(), draw()]
    assert [list(box) for box in boxes] == case["out/boxes"].tolist()
    assert np.array_equal(choice, case["out/choice"])

    config = train_config(
        crop_px=size[0],
        student={
            "hrda": {
                "detail_px": window[0],
                "detail_weight": meta["hr_loss_weight"],
                "attention_channels": meta["config"]["att_dim"],
                "margin_px": 0,
            }
        },
        regularizer={"on": []},
        self_training={
            "start": 0,
            "ema_decay": meta["alpha"],
            "threshold": meta["pseudo_threshold"],
        },
        feature_distance={
            "weight": fdist["lambda_"],
            "classes": ["by id"],
            "min_share": fdist["min_ratio"],
        },
        masking={
            "block_px": meta["mic"]["mask_block_size"],
            "ratio": meta["mic"]["mask_ratio"],
            "weight": 1.0,
        },
    )
    student, ema, imagenet = (
        TwoScales(module, case, prefix) for prefix in ("model.", "ema_model.", "model.")
    )
    tensors, unknown = import_official(case.params("param/imnet_model."))
    assert not unknown
    frozen = imagenet.student.backbone.eval()
    nn.ModuleDict({"backbone": frozen}).load_state_dict(tensors)
    models = Models(
        student=student.student.train(),
        ema=without_noise(ema.student),
        regularizer=None,
        imagenet=ImageNetReference(frozen, fdist["classes"]),
    )
    batch = Batch(
        source_image=case.tensor("in/img"),
        source_label=label,
        source_features={},
        target_image=case.tensor("in/target_img"),
        target_valid=case.tensor("in/valid_pseudo_mask").squeeze(1).bool(),
        target_features={},
    )
    still = [StrongDraw(None, None)]
    classes = [present[row].tolist() for row in choice]
    draws = Draws(classes, still, still, case.tensor("out/mic_uniform"))
    decode, passes = models.student.decode, list[hrda.Fused]()

    def noted(seen: Pass) -> hrda.Fused:
        fused = decode(seen)
        assert isinstance(fused, hrda.Fused)
        passes.append(fused)
        return fused

    of_ema = list[Tensor]()
    assert models.ema is not None
    models.ema.register_forward_hook(lambda *call: of_ema.append(call[2]))
    with mock.patch.object(models.student, "decode", noted):
        result = train_step(
            models,
            batch,
            draws,
            config=config,
            iteration=meta["local_iter"],
            boxes=dict(zip(("clean", "mix", "masked"), boxes, strict=True)),
        )

    pseudo, mixed, losses = result.pseudo, result.mixed, result.losses
    assert pseudo is not None
    assert mixed is not None
    labels = (label, mixed.label, pseudo.label)
    for name, fused, target, box in zip(
        ("clean", "mix", "masked"), passes, labels, boxes, strict=True
    ):
        prefix = "" if name == "clean" else f"{name}."
        of_pass = {"fused": losses[name], "detail": losses[f"{name}_detail"]}
        compare_losses(case, "out/log", f"{prefix}decode.", of_pass, 1e-5)
        compare_accuracies(case, "out/log", f"{prefix}decode.", module, fused, target, box)
        assert_close(fused.logits, case[f"out/logits/{name}/fused"], 5e-5)
        assert_close(fused.detail, case[f"out/logits/{name}/hr"], 5e-5)
    assert_close(losses["feature_distance"], case["out/log/src.loss_imnet_feat_dist"], 1e-5)
    # the last sum is what it logs
    assert_close(losses["masked"] + losses["masked_detail"], case["out/log/loss"], 1e-5)
    assert_close(of_ema[0], case["out/ema_logits_lowres"], 5e-5)
    assert int((pseudo.label != case.tensor("out/pseudo_label")).sum()) <= 2
    assert float(pseudo.confidence) == pytest.approx(meta["pseudo_ratio"], abs=1e-7)
    assert_close(pseudo.confidence.expand(label.shape), case["out/pseudo_weight_raw"], 1e-7)
    assert torch.equal(mixed.mask.long(), case.tensor("out/mask").long())
    assert_close(mixed.weight, case["out/mixed_weight"], 1e-7)
    target_weight = case.tensor("out/mic_weight").where(~mixed.mask.squeeze(1), 1.0)
    assert_close(mixed.weight, target_weight.numpy(), 1e-7)
    expected = case.tensor("out/mixed_label").view_as(mixed.label)
    assert int((mixed.label != expected).sum()) <= 2

    gradients = student.gradients()
    norms = case["out/grad_norms"]
    floor = 1e-4 * float(norms.max())
    for name, norm in zip(meta["grad_names"], norms, strict=True):
        ours = gradients[name.removeprefix("model.")]
        assert float(ours.norm()) == pytest.approx(float(norm), rel=1e-3, abs=floor), name
    for key in case.keys("out/grad/"):
        expected = case.tensor(key)
        ours = gradients[key.removeprefix("out/grad/model.")]
        assert float((ours - expected).norm()) <= 1e-3 * max(
            float(expected.norm()), floor / 1e-3
        ), key
    weights = ema.state()
    buffers = {"model": student.state(), "ema_model": weights}
    for key in case.keys("out/buf/"):
        network, _, name = key.removeprefix("out/buf/").partition(".")
        if network in buffers and not name.endswith("num_batches_tracked"):
            assert_close(buffers[network][name], case[key], 5e-6)
    for key in case.keys("out/ema/"):
        assert_close(weights[key.removeprefix("out/ema/ema_model.")], case[key], 1e-6)


def compare_fused(case: Case, part: str, fused: hrda.Fused) -> None:
    found = {
        "fused": fused.logits,
        "hr_logits": fused.detail,
        "lr_scaled": fused.context,
        "attention_masked": fused.attention,
        "attention_up": double(fused.attention),
        "lr_scaled_up": double(fused.context),
    }
    for name, value in found.items():
        if f"{part}/{name}" in case.arrays:
            assert_close(value, case[f"{part}/{name}"], 1e-5)


def compare_losses(
    case: Case, part: str, prefix: str, losses: Mapping[str, Tensor], tol: float = 1e-6
) -> None:
    assert_close(losses["fused"], case[f"{part}/{prefix}loss_seg"], tol)
    assert_close(losses["detail"], case[f"{part}/{prefix}hr.loss_seg"], tol)


def compare_accuracies(
    case: Case,
    part: str,
    prefix: str,
    module: ModuleType,
    fused: hrda.Fused,
    label: Tensor,
    box: hrda.Box,
) -> None:
    for name, logits, truth in (
        ("", fused.logits, label),
        ("hr.", fused.detail, module.crop_to(box, label)),
    ):
        key = f"{part}/{prefix}{name}acc_seg"
        if key in case.arrays:
            official = float(np.ravel(case[key])[0])
            assert float(pixel_accuracy(logits, truth)) == pytest.approx(official, abs=0.02)


def compare_gradients(
    network: TwoScales, case: Case, part: str, names: list[str], prefix: str, tol: float
) -> None:
    gradients = network.gradients()
    norms = case[f"{part}/param_grad_norms"]
    for name, norm in zip(names, norms, strict=True):
        ours = gradients.get(f"{prefix}{name}", torch.zeros(()))
        floor = 1e-5 * float(norms.max()) if NOTHING_TO_LEARN.search(name) else 1e-6
        assert float(ours.norm()) == pytest.approx(float(norm), rel=tol, abs=floor), name


def compare_buffers(network: TwoScales, case: Case, part: str, prefix: str) -> None:
    buffers = network.state()
    for key in case.keys(part):
        assert_close(buffers[prefix + key.removeprefix(part)], case[key], 5e-6)


def slices(text: str) -> Iterator[slice]:
    """Read what a case keeps of a map, as `[1::3, 2::3]`."""
    for part in text.strip("[]").split(","):
        yield slice(*(int(number) if number.strip() else None for number in part.split(":")))


def double(map_: Tensor) -> Tensor:
    return F.interpolate(map_, scale_factor=2, mode="bilinear", align_corners=False)


CHECKS: dict[str, Check] = {
    "hrda_crop": check_crop,
    "hrda_head_train": check_head,
    "hrda_segmentor_train": check_segmentor,
    "hrda_inference": check_inference,
    "hrda_slide": check_slide,
    "hrda_margins": check_margins,
    "hrda_mic_step": check_mic_step,
}
"""Case -> what must hold of our module; a wrong copy of it must fail."""

MODULES: dict[str, ModuleType] = dict.fromkeys(CHECKS, hrda) | {"hrda_margins": labels_of_ema}


def test_every_case_has_a_check(hrda_reference: Reference) -> None:
    cases = {path.stem for path in hrda_reference.folder.glob("*.[nj]*")}
    assert cases == {*CHECKS, KEYS}


@pytest.mark.parametrize("name", CHECKS)
def test_our_numbers_are_the_official_ones(hrda_reference: Reference, name: str) -> None:
    # Its counters go on from the loaded ones, and its ImageNet model has a head, which rests.
    but = "num_batches_tracked|out/buf/imnet_model"
    check_all(CHECKS[name], MODULES[name], hrda_reference(name), but=but)


BLEND = "return Fused(_double(attention) * canvas + _double(context), context, detail, attention)"
ATTENUATE = "context = (1 - attention) * context"
MASK = "attention = attention * _place(seen, inside, (height, width))"
TOP_LEFT = "(0, box[1] - box[0], 0, box[3] - box[2])"
WRONG: list[tuple[str, dict[str, tuple[str, ...]]]] = [
    ("hrda_crop", {
        "the last place is drawn": (
            "(side - crop + 1) // align_px", "(side - crop) // align_px + 1"
        ),
        "columns before rows": ("y, x = (int(draw", "x, y = (int(draw"),
        "boxes that are rounded up": ("(side // cell_px for", "(-(-side // cell_px) for"),
        "odd sides resized to the size": (
            "scale_factor=CONTEXT_SCALE", "size=[side // 2 for side in images.shape[2:]]"
        ),
    }),
    ("hrda_head_train", {
        "a swapped blend": (ATTENUATE, "context = attention * context"),
        "a blend after the enlargement": (
            ATTENUATE, "", BLEND,
            "up = _double(attention); return Fused(up * canvas + (1 - up) * _double(context), "
            "(1 - attention) * context, detail, attention)",
        ),
        "a mask after the enlargement": (
            MASK, "mask = F.interpolate(_place(seen, inside, (height, width)), scale_factor=2)",
            BLEND,
            "up = _double(attention); up = up if box is None else up * mask; "
            "return Fused(up * canvas + _double(context), context, detail, attention)",
        ),
        "no mask": (MASK, "pass"),
        "the box of the context for the detail": (
            "canvas = _place(detail, box_of_cells(box, LOGIT_STRIDE_PX),",
            "y, x = box[0] // 8, box[2] // 8; "
            "canvas = _place(detail, (y, y + detail.shape[2], x, x + detail.shape[3]),",
        ),
        "another box in the losses": (
            "loss(fused.detail, crop_to(box, label)",
            f"loss(fused.detail, crop_to({TOP_LEFT}, label)",
        ),
        "weights that are not cropped alike": (
            "crop_to(box, weight)", f"crop_to({TOP_LEFT}, weight)"
        ),
        "detail without weights": ("crop_to(box, label), inside)", "crop_to(box, label), None)"),
        "one attention for all classes": (
            "attention(context_maps).sigmoid(), box",
            "attention(context_maps).sigmoid().mean(1, True).expand_as(context), box",
        ),
        "attention by softmax": (
            "attention(context_maps).sigmoid(), box", "attention(context_maps).softmax(1), box"
        ),
        "attention of the detail": (
            "attention(context_maps).sigmoid(), box", "attention(detail_maps).sigmoid(), box"
        ),
        "the detail first": (
            "context, detail = head(context_maps), head(detail_maps)",
            "detail, context = head(detail_maps), head(context_maps)",
        ),
        "the fused loss as a whole": ("(1 - detail_weight - context_weight) * loss", "loss"),
        "a fused loss that ignores the context's": ("- context_weight) *", ") *"),
        "detail without its weight": ("detail_weight * loss(fused.detail", "loss(fused.detail"),
        "detail averaged over the whole crop": (
            "detail_weight * loss(fused.detail",
            "detail_weight * fused.detail[0, 0].numel() / fused.logits[0, 0].numel() "
            "* loss(fused.detail",
        ),
        "raw logits of the context": (
            ATTENUATE, "raw, context = context, (1 - attention) * context",
            BLEND, BLEND.replace("context, detail, attention)", "raw, detail, attention)"),
        ),
        "detail without a gradient": (
            "canvas = _place(detail,", "canvas = _place(detail.detach(),"
        ),
        "aligned corners": (
            "scale_factor=2.0, mode=\"bilinear\", align_corners=False",
            "scale_factor=2.0, mode=\"bilinear\", align_corners=True",
        ),
    }),
    ("hrda_segmentor_train", {
        "a backbone that does not learn from the detail": (
            "features(context_images(images)), features(crop_to(box, images))",
            "features(context_images(images)), "
            "[each.detach() for each in features(crop_to(box, images))]",
        ),
        "a context that is not halved": (
            "features(context_images(images)), features(",
            "features(context_images(images).roll(1, -1)), features(",
        ),
    }),
    ("hrda_inference", {
        "windows side by side": ("(window[0] // 2, window[1] // 2)", "window"),
        "images outermost": (
            "features(torch.cat([crop_to(box, images) for box in boxes]))",
            "features(torch.stack([crop_to(box, images) for box in boxes], 1).flatten(0, 1))",
        ),
        "averaged probabilities": ("windows = head(context_maps), head(detail_maps)",
            "windows = head(context_maps), head(detail_maps).softmax(1)",
        ),
        "sums that are not averaged": ("return total / window_counts", "return total # "),
        "windows one by one": (
            "detail_maps = features(torch.cat([crop_to(box, images) for box in boxes]))",
            "each = [features(crop_to(box, images)) for box in boxes]; detail_maps = None",
            "context, windows = head(context_maps), head(detail_maps)",
            "context, windows = head(context_maps), torch.cat([head(maps) for maps in each])",
        ),
        "the context unattenuated": (ATTENUATE, "context = 1.0 * context"),
    }),
    ("hrda_slide", {
        "averaged probabilities of crops": (
            "logits.float(), windows", "logits.float().softmax(1), windows"
        ),
        "one step too few": ("window + stride - 1, 0) // stride + 1", "window, 0) // stride + 1"),
    }),
    ("hrda_margins", {
        "swapped margins": ("(margins_px[:2], margins_px[2:])", "(margins_px[2:], margins_px[:2])"),
        "rounded places": ("places * frame // side", "(2 * places + 1) * frame // (2 * side)"),
        "margins of the crop": ("torch.arange(first, first + length)", "torch.arange(length)"),
    }),
]  # fmt: skip
"""Check, and for each error the right and the wrong piece of our module, by turns."""


@pytest.mark.parametrize(
    ("check", "pieces"),
    [
        pytest.param(name, each, id=error)
        for name, errors in WRONG
        for error, each in errors.items()
    ],
)
def test_a_planted_error_is_found(shared: Path, check: str, pieces: tuple[str, ...]) -> None:
    module = planted(MODULES[check], *pieces)
    with pytest.raises(AssertionError):
        CHECKS[check](module, Reference(shared / "reference-hrda")(check))


@pytest.mark.parametrize(
    ("ours", "wrong"),
    [
        pytest.param("without_noise", lambda network: network.eval(), id="a teacher in eval mode"),
        pytest.param("update_ema", lambda *_: None, id="a teacher that does not follow"),
        pytest.param(
            "pseudo_weight", lambda share, valid: share * torch.ones_like(valid), id="no margins"
        ),
    ],
)
def test_a_planted_error_of_the_step_is_found(
    shared: Path, monkeypatch: pytest.MonkeyPatch, ours: str, wrong: object
) -> None:
    monkeypatch.setattr(f"{__name__ if ours == 'without_noise' else step.__name__}.{ours}", wrong)
    with pytest.raises(AssertionError):
        check_mic_step(hrda, Reference(shared / "reference-hrda")("hrda_mic_step"))


def test_attention_starts_undecided() -> None:
    features = [torch.randn(1, 16, 8 // 2**j, 8 // 2**j) for j in range(4)]
    attention = hrda.ScaleAttention([16] * 4, 5).eval()
    shares = attention(features).sigmoid()
    assert shares.shape == (1, 5, 8, 8)
    torch.testing.assert_close(shares, torch.full_like(shares, 0.5), atol=0.2, rtol=0)


def test_the_heads_have_the_official_tensors(hrda_reference: Reference) -> None:
    shapes = hrda_reference.json(KEYS)
    classes, channels = shapes["decode_head.scale_attention.conv_seg.weight"][:2]
    assert channels == hrda.ATTENTION_CHANNELS
    widths = BACKBONES["mit_b5"].widths
    with torch.device("meta"):
        heads = nn.ModuleDict(
            {
                "head": DAFormerHead(widths, channels, channels, classes, dropout=hrda.DROPOUT),
                "attention": hrda.ScaleAttention(widths, classes),
            }
        )
        empty = {name: torch.empty(shape) for name, shape in shapes.items()}
    tensors, unknown = import_official(named_as_daformer(empty))
    assert not unknown
    assert {n: t.shape for n, t in tensors.items()} == {
        n: t.shape for n, t in heads.state_dict().items()
    }
