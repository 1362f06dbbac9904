"""Students as plain transformers models: configuration and tensor names of its SegFormer.

The names are those of SegFormer's published checkpoints, which transformers reads in every version
(its own modules were renamed between 4 and 5, and it translates on loading).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import SegformerConfig

from stages.prepare.labels import IGNORE
from stages.student.architectures import BACKBONES
from stages.student.config import StudentConfig
from stages.student.names import indices_in

PLAIN_EPS = 1e-5
"""LayerNorm epsilon that transformers' SegFormer hard-codes, whatever its configuration says."""

# {s}: stage, {b}: block; transformers' checkpoint on the left, ours on the right.
_RULES = (
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


def why_not_plain(config: StudentConfig) -> str | None:
    """Say why a student is no plain transformers model, and what would make it one; None if it is.

    Args:
        config: What the student was built from.
    """
    if config.head != "mlp":
        return (
            f"its head is {config.head}, which transformers does not have (train.student.head: mlp)"
        )
    if config.norm_eps != PLAIN_EPS:
        return (
            f"it was trained with norm_eps {config.norm_eps:g}, which transformers would silently "
            f"replace by {PLAIN_EPS:g} (train.student.norm_eps: {PLAIN_EPS:g})"
        )
    return None


def segformer_config(config: StudentConfig, classes: Sequence[str]) -> dict[str, Any]:
    """Return the `config.json` of `SegformerForSemanticSegmentation`.

    Args:
        config: A student for which `why_not_plain` has no reason.
        classes: Names in the order of the train ids.
    """
    mit = BACKBONES[config.backbone]
    tree: dict[str, Any] = SegformerConfig(
        architectures=["SegformerForSemanticSegmentation"],
        hidden_sizes=list(mit.widths),
        depths=list(mit.depths),
        num_attention_heads=list(mit.heads),
        sr_ratios=list(mit.reductions),
        mlp_ratios=[mit.mlp_ratio] * len(mit.widths),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=config.dropout,
        drop_path_rate=config.drop_path,
        layer_norm_eps=config.norm_eps,
        decoder_hidden_size=config.head_channels,
        semantic_loss_ignore_index=IGNORE,
        id2label=dict(enumerate(classes)),
        label2id={name: train_id for train_id, name in enumerate(classes)},
        dtype="float32",
    ).to_dict()
    return tree


def to_segformer(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a student with MLP head."""
    return _rename(ours, [(ours_, theirs) for theirs, ours_ in _RULES])


def from_segformer(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename back; a name that no rule knows stays, for the reader to complain about."""
    return _rename(theirs, _RULES)


def _rename(tensors: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        stem, _, leaf = name.rpartition(".")
        found = (
            f"{new.format(**indices)}.{leaf}"
            for old, new in rules
            if (indices := indices_in(old, stem)) is not None
        )
        renamed[next(found, name)] = tensor
    return renamed
