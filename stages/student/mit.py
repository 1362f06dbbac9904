"""MiT backbones: the Mix Transformer of SegFormer, from transformers' classes.

# B batch, C_i channels of stage i, H_i W_i = image side / 4, 8, 16, 32 (odd rests round up)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerModel

from stages.student.config import BackboneName

COARSEST_PX = 32
"""Stride of the last stage."""


@dataclass(frozen=True, slots=True)
class MiT:
    """The four stages of a Mix Transformer: widths, depths, attention heads, key reduction."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...] = (1, 2, 5, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    mlp_ratio: int = 4


# SegFormer (arXiv 2105.15203), table 6; mit_tiny is ours, for the demo and for tests.
BACKBONES: dict[BackboneName, MiT] = {
    "mit_tiny": MiT((16, 32, 80, 128), (1, 1, 1, 1)),
    "mit_b0": MiT((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": MiT((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": MiT((64, 128, 320, 512), (3, 4, 6, 3)),
    "mit_b3": MiT((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": MiT((64, 128, 320, 512), (3, 8, 27, 3)),
    "mit_b5": MiT((64, 128, 320, 512), (3, 6, 40, 3)),
}


def build_backbone(mit: MiT, *, drop_path: float, norm_eps: float) -> SegformerModel:
    """Build a randomly initialised backbone.

    Args:
        mit: Widths, depths and heads of the four stages.
        drop_path: Stochastic depth of the last block; it grows linearly from 0 over all blocks.
        norm_eps: LayerNorm epsilon of block and stage norms: 1e-6 is the official MiT, 1e-5 what
            transformers hard-codes. Patch-embedding and reduction norms have 1e-5 in both.

    Returns:
        transformers' SegformerModel with fused attention, initialised as the official MiT.
    """
    backbone = SegformerModel(
        SegformerConfig(
            hidden_sizes=list(mit.widths),
            depths=list(mit.depths),
            num_attention_heads=list(mit.heads),
            sr_ratios=list(mit.reductions),
            mlp_ratios=[mit.mlp_ratio] * len(mit.widths),
            drop_path_rate=drop_path,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="sdpa",
        )
    )
    for stage in backbone.stages:
        stage.layer_norm.eps = norm_eps
        for block in stage.blocks:
            block.layernorm_before.eps = norm_eps
            block.layernorm_after.eps = norm_eps
    backbone.apply(_initialise)
    return backbone


def stage_features(backbone: SegformerModel, images: Tensor) -> list[Tensor]:
    """Run the four stages.

    The stages are called one after the other because transformers collects hidden states by
    hooks, which get in the way of deep copies (the EMA model) and of torch.compile.

    Args:
        backbone: As built by `build_backbone`, or another with such `stages`.
        images: (B, 3, H, W) float, normalised RGB.

    Returns:
        Four maps (B, C_i, H_i, W_i) at strides 4, 8, 16, 32, each after its stage norm.
    """
    features: list[Tensor] = []
    for stage in backbone.stages:
        images = stage(images)
        features.append(images)
    return features


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    """Initialise as the official mix_transformer.py does before it loads weights.

    Differs from transformers, which draws all weights from N(0, 0.02): that makes the depthwise
    convolutions 24 times weaker, which matters where no ImageNet weights are at hand.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
