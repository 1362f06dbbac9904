"""Tensor names of the official code and of transformers: tables of rules, read both ways.

Official students have `backbone.*` and `decode_head.*`, official regularisers `embedding_layer.*`
and `fusion_layer.*`. Ours are the names in the state dicts of `Student` and `Regularizer`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from torch import Tensor

# {s}: stage from 0, {n}: the same from 1, {b}: block or branch. An official tensor with two rows is
# the concatenation of two of ours, in the order of the rows (keys before values).
_OFFICIAL = (
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

# The names of SegFormer's published checkpoints, which transformers reads in every version (its own
# modules were renamed between 4 and 5, and it translates on loading).
_SEGFORMER = (
    ("segformer.encoder.patch_embeddings.{s}.proj", "backbone.stages.{s}.patch_embeddings.proj"),
    (
        "segformer.encoder.patch_embeddings.{s}.layer_norm",
        "backbone.stages.{s}.patch_embeddings.layer_norm",
    ),
    *(
        (
            f"segformer.encoder.block.{{s}}.{{b}}.{theirs}",
            f"backbone.stages.{{s}}.blocks.{{b}}.{ours}",
        )
        for theirs, ours in (
            ("layer_norm_1", "layernorm_before"),
            ("attention.self.query", "attention.q_proj"),
            ("attention.self.key", "attention.k_proj"),
            ("attention.self.value", "attention.v_proj"),
            ("attention.self.sr", "attention.sequence_reduction.sequence_reduction"),
            ("attention.self.layer_norm", "attention.sequence_reduction.layer_norm"),
            ("attention.output.dense", "attention.o_proj"),
            ("layer_norm_2", "layernorm_after"),
            ("mlp.dense1", "mlp.fc1"),
            ("mlp.dwconv.dwconv", "mlp.dwconv.dwconv"),
            ("mlp.dense2", "mlp.fc2"),
        )
    ),
    ("segformer.encoder.layer_norm.{s}", "backbone.stages.{s}.layer_norm"),
    ("decode_head.linear_c.{s}.proj", "head.linear_projections.{s}.proj"),
    ("decode_head.linear_fuse", "head.linear_fuse"),
    ("decode_head.batch_norm", "head.batch_norm"),
    ("decode_head.classifier", "head.classifier"),
)


def official_to_ours(name: str) -> tuple[str, ...]:
    """Translate a tensor name; two names where ours are two parts of it, none where unknown."""
    return tuple(_translations(name, _OFFICIAL))


def ours_to_official(name: str) -> str | None:
    """Translate a tensor name of ours; None where the official code has no such tensor."""
    return next(_translations(name, _swapped(_OFFICIAL)), None)


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


def to_segformer(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a student with MLP head."""
    rules = _swapped(_SEGFORMER)
    return {next(_translations(name, rules), name): tensor for name, tensor in ours.items()}


def from_segformer(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename back; a name that no rule knows stays, for the reader to complain about."""
    return {next(_translations(name, _SEGFORMER), name): t for name, t in theirs.items()}


def _swapped(rules: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(right, left) for left, right in rules]


def _translations(name: str, rules: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield what each rule whose left side the name follows makes of it."""
    stem, _, leaf = name.rpartition(".")
    for template, other in rules:
        found = _pattern(template).fullmatch(stem)
        if found is not None:
            indices = {key: int(value) for key, value in found.groupdict().items()}
            if "n" in indices:
                indices["s"] = indices["n"] - 1
            elif "s" in indices:
                indices["n"] = indices["s"] + 1
            yield f"{other.format(**indices)}.{leaf}"


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(template)))
