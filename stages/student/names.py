"""Tensor names of the official code and ours: one table of rules, read in both directions.

Official students have `backbone.*` and `decode_head.*`, official regularisers `embedding_layer.*`
and `fusion_layer.*`. Ours are the names in the state dicts of `Student` and `Regularizer`.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

# {s}: stage from 0, {n}: the same from 1, {b}: block or branch. An official tensor with two rows is
# the concatenation of two of ours, in the order of the rows (keys before values).
_RULES = (
    ("backbone.patch_embed{n}.proj", "backbone.stages.{s}.patch_embeddings.proj"),
    ("backbone.patch_embed{n}.norm", "backbone.stages.{s}.patch_embeddings.layer_norm"),
    ("backbone.block{n}.{b}.norm1", "backbone.stages.{s}.blocks.{b}.layernorm_before"),
    ("backbone.block{n}.{b}.attn.q", "backbone.stages.{s}.blocks.{b}.attention.q_proj"),
    ("backbone.block{n}.{b}.attn.kv", "backbone.stages.{s}.blocks.{b}.attention.k_proj"),
    ("backbone.block{n}.{b}.attn.kv", "backbone.stages.{s}.blocks.{b}.attention.v_proj"),
    ("backbone.block{n}.{b}.attn.proj", "backbone.stages.{s}.blocks.{b}.attention.o_proj"),
    (
        "backbone.block{n}.{b}.attn.sr",
        "backbone.stages.{s}.blocks.{b}.attention.sequence_reduction.sequence_reduction",
    ),
    (
        "backbone.block{n}.{b}.attn.norm",
        "backbone.stages.{s}.blocks.{b}.attention.sequence_reduction.layer_norm",
    ),
    ("backbone.block{n}.{b}.norm2", "backbone.stages.{s}.blocks.{b}.layernorm_after"),
    ("backbone.block{n}.{b}.mlp.fc1", "backbone.stages.{s}.blocks.{b}.mlp.fc1"),
    ("backbone.block{n}.{b}.mlp.dwconv.dwconv", "backbone.stages.{s}.blocks.{b}.mlp.dwconv.dwconv"),
    ("backbone.block{n}.{b}.mlp.fc2", "backbone.stages.{s}.blocks.{b}.mlp.fc2"),
    ("backbone.norm{n}", "backbone.stages.{s}.layer_norm"),
    ("decode_head.embed_layers.{s}.proj", "head.embed.{s}"),
    ("decode_head.fuse_layer.aspp_modules.{b}.conv", "head.aspp.{b}.conv"),
    ("decode_head.fuse_layer.aspp_modules.{b}.bn", "head.aspp.{b}.bn"),
    (
        "decode_head.fuse_layer.aspp_modules.{b}.depthwise_conv.conv",
        "head.aspp.{b}.depthwise.conv",
    ),
    ("decode_head.fuse_layer.aspp_modules.{b}.depthwise_conv.bn", "head.aspp.{b}.depthwise.bn"),
    (
        "decode_head.fuse_layer.aspp_modules.{b}.pointwise_conv.conv",
        "head.aspp.{b}.pointwise.conv",
    ),
    ("decode_head.fuse_layer.aspp_modules.{b}.pointwise_conv.bn", "head.aspp.{b}.pointwise.bn"),
    ("decode_head.fuse_layer.bottleneck.conv", "head.bottleneck.conv"),
    ("decode_head.fuse_layer.bottleneck.bn", "head.bottleneck.bn"),
    ("decode_head.conv_seg", "head.classifier"),
    ("embedding_layer.{s}.proj", "embed.{s}"),
    ("fusion_layer.{s}.q", "fusion.{s}.q"),
    ("fusion_layer.{s}.kv", "fusion.{s}.kv"),
    ("fusion_layer.{s}.proj", "fusion.{s}.proj"),
)


def official_to_ours(name: str) -> tuple[str, ...]:
    """Translate a tensor name; two names where ours are two parts of it, none where unknown."""
    stem, _, leaf = name.rpartition(".")
    return tuple(
        f"{ours.format(**indices)}.{leaf}"
        for official, ours in _RULES
        if (indices := indices_in(official, stem)) is not None
    )


def ours_to_official(name: str) -> str | None:
    """Translate a tensor name of ours; None where the official code has no such tensor."""
    stem, _, leaf = name.rpartition(".")
    for official, ours in _RULES:
        if (indices := indices_in(ours, stem)) is not None:
            return f"{official.format(**indices)}.{leaf}"
    return None


def import_official(official: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Translate names and split what is fused.

    Returns:
        Tensors under our names, and the official names that no rule knows.
    """
    ours: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in official.items():
        names = official_to_ours(name)
        if not names:
            unknown.append(name)
        elif len(names) == 1:
            ours[names[0]] = tensor
        else:
            ours.update(zip(names, tensor.tensor_split(len(names)), strict=True))
    return ours, unknown


def export_official(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate back: parameters, buffers or gradients of ours to the official layout.

    Raises:
        ValueError: If a tensor has no official name, or a part of a fused one is missing.
    """
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in ours.items():
        official = ours_to_official(name)
        if official is None:
            raise ValueError(f"{name} has no official name")
        parts[official][name] = tensor
    exported = {}
    for official, found in parts.items():
        names = official_to_ours(official)
        if len(found) != len(names):
            raise ValueError(f"{official} needs all of {', '.join(names)}")
        tensors = [found[name] for name in names]
        exported[official] = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    return exported


def indices_in(template: str, stem: str) -> dict[str, int] | None:
    """Read stage and block numbers out of a name that follows the template; None of another."""
    found = _pattern(template).fullmatch(stem)
    if found is None:
        return None
    indices = {key: int(value) for key, value in found.groupdict().items()}
    if "n" in indices:
        indices["s"] = indices["n"] - 1
    elif "s" in indices:
        indices["n"] = indices["s"] + 1
    return indices


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(template)))
