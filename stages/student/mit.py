"""MiT backbones: the Mix Transformer of SegFormer, from transformers' classes.

# B batch, C_i channels of stage i, H_i W_i = image side / 4, 8, 16, 32 (odd rests round up),
# N = H_i W_i tokens
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.segformer.modeling_segformer import (
    SegformerDropPath,
    SegformerLayer,
    SegformerStage,
)

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
    """Build transformers' backbone with fused attention, initialised as the official MiT.

    Stochastic depth grows linearly over all blocks, from 0 to `drop_path`. Block and stage norms
    have `norm_eps`: 1e-6 is the official MiT, 1e-5 what transformers hard-codes. The norms of patch
    embedding and reduction have 1e-5 in both.
    """
    backbone = SegformerModel(segformer_config(mit, drop_path, attn_implementation="sdpa"))
    for stage in backbone.stages:
        stage.layer_norm.eps = norm_eps
        for block in stage.blocks:
            block.layernorm_before.eps = norm_eps
            block.layernorm_after.eps = norm_eps
    backbone.apply(_initialise)
    backbone.stages = nn.ModuleList(Stage(stage) for stage in backbone.stages)
    return backbone


def segformer_config(mit: MiT, drop_path: float, **more: object) -> SegformerConfig:
    """Describe a backbone, and `more`, to transformers."""
    return SegformerConfig(
        hidden_sizes=list(mit.widths),
        depths=list(mit.depths),
        num_attention_heads=list(mit.heads),
        sr_ratios=list(mit.reductions),
        mlp_ratios=[mit.mlp_ratio] * len(mit.widths),
        drop_path_rate=drop_path,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **more,
    )


class Stage(nn.Module):
    """A stage of transformers' that draws the stochastic depth of all its blocks at once.

    The numbers are those that its blocks would draw one after the other, and are used likewise.
    """

    keep: Tensor

    def __init__(self, stage: SegformerStage) -> None:
        super().__init__()
        self.patch_embeddings = stage.patch_embeddings
        self.blocks = nn.ModuleList(map(Block, stage.blocks))
        self.layer_norm = stage.layer_norm
        paths = [block.drop_path for block in self.blocks]
        self._dropping = [each for each in paths if isinstance(each, SegformerDropPath)]
        keep = torch.tensor([1 - each.drop_prob for each in self._dropping for _ in "ab"])
        self.register_buffer("keep", keep.view(-1, 1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W), or the map of the stage before, to (B, C_i, H_i, W_i)."""
        tokens, height, width = self.patch_embeddings(images)  # (B, N, C_i)
        divisors = self._draw_divisors(tokens)
        for block in self.blocks:
            drops = divisors and isinstance(block.drop_path, SegformerDropPath)
            pair = (divisors.pop(0), divisors.pop(0)) if drops else None
            tokens = block(tokens, height, width, pair)
        map_: Tensor = self.layer_norm(tokens).unflatten(1, (height, width)).permute(0, 3, 1, 2)
        return map_.contiguous()

    def _draw_divisors(self, tokens: Tensor) -> list[Tensor]:
        """Return what both branches of each block are divided by, (B, 1, 1); inf drops them."""
        if not any(each.training for each in self._dropping):
            return []
        shape = (len(self.keep), len(tokens), 1, 1)
        drawn = torch.rand(shape, dtype=tokens.dtype, device=tokens.device)
        kept = (drawn + self.keep).to(tokens.dtype).floor()
        return [*(self.keep / kept).unbind()]


class Block(GradientCheckpointingLayer):  # type: ignore[misc]
    """A block of transformers' whose residual connections are one operator each."""

    def __init__(self, block: SegformerLayer) -> None:
        super().__init__()
        self.layernorm_before = block.layernorm_before
        self.attention = block.attention
        self.drop_path = block.drop_path
        self.layernorm_after = block.layernorm_after
        self.mlp = block.mlp

    def forward(
        self, tokens: Tensor, height: int, width: int, divisors: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Map tokens (B, N, C_i) to such tokens; `divisors` are of attention and MLP."""
        of_attention, of_mlp = divisors or (None, None)
        attended, _ = self.attention(self.layernorm_before(tokens), height, width)
        tokens = _add(tokens, attended, of_attention)
        return _add(tokens, self.mlp(self.layernorm_after(tokens), height, width), of_mlp)


def _add(tokens: Tensor, branch: Tensor, divisor: Tensor | None) -> Tensor:
    if divisor is None:
        return branch + tokens
    added: Tensor = _AddDivided.apply(tokens, branch, divisor)  # type: ignore[no-untyped-call]
    return added


class _AddDivided(torch.autograd.Function):
    """`tokens + branch / divisor` in the dtype of the tokens; forward and back a kernel each."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, branch: Tensor, divisor: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(divisor)
        ctx.dtype = branch.dtype
        return torch.addcdiv(tokens, branch, divisor, out=torch.empty_like(tokens))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        (divisor,) = ctx.saved_tensors
        of_branch = torch.empty_like(gradient, dtype=ctx.dtype)
        return gradient, torch.div(gradient, divisor, out=of_branch), None


def stage_features(stages: Iterable[Callable[[Tensor], Tensor]], images: Tensor) -> list[Tensor]:
    """Run the stages of a backbone on normalised images (B, 3, H, W).

    They are called one after the other because transformers collects hidden states by hooks, which
    get in the way of deep copies (the EMA model) and of torch.compile.

    Returns:
        Four maps (B, C_i, H_i, W_i) at strides 4, 8, 16, 32, each after its stage norm.
    """
    features: list[Tensor] = []
    for stage in stages:
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
