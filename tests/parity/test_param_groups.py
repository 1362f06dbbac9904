"""Case 15: learning rate and decay of every parameter."""

import re

import torch

from stages.student.heads import DAFormerHead
from stages.student.mit import MiT, build_backbone
from stages.student.student import Student
from stages.student.weights import official_to_ours
from stages.train.config import OptimizerConfig
from stages.train.regularizers.cross_attention import CrossAttentionBranch
from stages.train.state import build_optimizer
from tests.parity.cases import Reference

NEVER_OURS = ("ema_model.", "imnet_model.", "predictor.")


def test_every_parameter_has_the_official_settings(reference: Reference) -> None:
    settings = reference.json("param_groups")
    ours = {
        n.removeprefix("model."): s for n, s in settings.items() if not n.startswith(NEVER_OURS)
    }
    student, regularizer = networks_of(list(ours))

    base = ours["backbone.patch_embed1.proj.weight"]
    norm = ours["backbone.patch_embed1.norm.weight"]
    config = OptimizerConfig(
        lr=base["lr"],
        head_lr_factor=ours["decode_head.conv_seg.weight"]["lr"] / base["lr"],
        regularizer_lr_factor=1.0,
        weight_decay=base["weight_decay"],
        betas=base["betas"],
        warmup_iterations=1,
        warmup_ratio=1.0,
        power=1.0,
    )
    assert norm["weight_decay"] != base["weight_decay"]  # else the case shows nothing
    optimizer = build_optimizer(student, regularizer, config)
    found = {
        id(parameter): {key: group[key] for key in ("lr", "weight_decay", "betas", "eps")}
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    named = dict([*student.named_parameters(), *regularizer.named_parameters()])
    checked = set()
    for official, expected in ours.items():
        for name in official_to_ours(official):
            got = found[id(named[name])]
            assert got | {"betas": list(got["betas"])} == expected, name
            checked.add(name)
    assert checked == set(named)  # none of ours without an official counterpart
    assert len(found) == len(named)  # nothing else is optimised: no SAM, EMA or ImageNet model


def networks_of(names: list[str]) -> tuple[Student, CrossAttentionBranch]:
    """Networks with these parameters; widths are not in the case and don't matter."""
    stages = 4
    depths = tuple(
        1 + max(int(m[1]) for n in names if (m := re.match(rf"backbone\.block{s + 1}\.(\d+)\.", n)))
        for s in range(stages)
    )
    reductions = tuple(
        2 if f"backbone.block{s + 1}.0.attn.sr.weight" in names else 1 for s in range(stages)
    )
    branches = {n.split(".")[3] for n in names if n.startswith("decode_head.fuse_layer.aspp")}
    levels = ["stride8" if f"fusion_layer.{s}.q.weight" in names else None for s in range(stages)]
    widths = heads = (1, 2, 5, 8)
    with torch.device("meta"):
        student = Student(
            build_backbone(MiT(widths, depths, heads, reductions), drop_path=0.0, norm_eps=1e-6),
            DAFormerHead(widths, 4, 3, 2, dropout=0.0, dilations=[1, 6, 12, 18][: len(branches)]),
        )
        return student, CrossAttentionBranch(widths, {"stride8": 4}, heads, levels)
