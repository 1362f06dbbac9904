"""Rein: low-rank tokens that refine the features of a frozen ViT (arXiv 2312.04265).

Written from published facts and recorded numbers; the official code is GPL-3.0 and not used.

# B batch, N patches, C channels, L refined layers, m tokens, r rank, q query channels, h w grid
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INITIAL_SCALE: Final = 0.001
"""Ten times as much is known to collapse."""


class LowRankTokens(nn.Module):
    """Tokens of each layer, and the maps shared by all layers that add them to features.

    Args:
        channels: C.
        layers: L.
        tokens: m.
        rank: r; 0 learns the tokens themselves.
        query_channels: q of the link to a query-based head; None builds no link.
        patch_px: Side of a patch, which sets the bound of the initial tokens.
        zero_start: Start as the identity: no delta, and a scale that stays 1.
    """

    def __init__(
        self,
        channels: int,
        layers: int,
        *,
        tokens: int = 100,
        rank: int = 16,
        query_channels: int | None = 256,
        patch_px: int = 16,
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        shapes = [(tokens, rank), (rank, channels)] if rank else [(tokens, channels)]
        self.factors = nn.ParameterList(torch.empty(layers, *shape) for shape in shapes)
        bound = token_bound(channels, rank, patch_px)
        for factor in self.factors:
            nn.init.uniform_(factor, -bound, bound)
        self.to_feature = nn.Linear(channels, channels)
        self.to_delta = nn.Linear(channels, channels)
        self.scale: Tensor | nn.Parameter
        if zero_start:
            nn.init.zeros_(self.to_delta.weight)
            nn.init.zeros_(self.to_delta.bias)
            self.register_buffer("scale", torch.ones(()), persistent=False)
        else:
            self.scale = nn.Parameter(torch.tensor(INITIAL_SCALE))
        if query_channels is not None:
            self.to_query = nn.Linear(channels, query_channels)
            self.merge = nn.Linear(3 * query_channels, query_channels)

    def tokens(self, layer: int | slice) -> Tensor:
        """Return the tokens of a layer (m, C), or of several (L, m, C)."""
        first, *others = (factor[layer] for factor in self.factors)
        tokens: Tensor = first @ others[0] if others else first
        return tokens

    def shares(self, features: Tensor, layer: int) -> Tensor:
        """Return how much of each token every feature (B, N, C) reads: (B, N, m), sum 1.

        Token 0 is never read: what a feature gives to it is how little it wants to be refined.
        """
        scale: float = features.shape[-1] ** -0.5
        return (features @ self.tokens(layer).T * scale).softmax(dim=-1)

    def forward(self, features: Tensor, layer: int, *, prefix: int = 0) -> Tensor:
        """Refine the features of a layer (the paper's section 3.2; official file `reins.py`).

        Args:
            features: (B, prefix + N, C).
            layer: Which of the L.
            prefix: Leading tokens that pass unchanged, as the class token.

        Returns:
            Of the same shape.
        """
        passed, patches = features[:, :prefix], features[:, prefix:]
        values = self.to_feature(self.tokens(layer)[1:])  # (m - 1, C)
        read = self.shares(patches, layer)[..., 1:] @ values
        refined = patches + self.scale * self.to_delta(read + patches)
        return torch.cat([passed, refined], dim=1) if prefix else refined

    def refine_map(self, map_: Tensor, layer: int) -> Tensor:
        """Refine a map (B, C, h, w), as of a feature store."""
        refined: Tensor = self(map_.flatten(2).transpose(1, 2), layer)
        return refined.transpose(1, 2).reshape(map_.shape)

    def queries(self) -> Tensor:
        """Return the query of each token for the head, (m, q)."""
        each = self.to_query(self.tokens(slice(None)))  # (L, m, q)
        kinds = [each.max(dim=0).values, each.mean(dim=0), each[-1]]
        merged: Tensor = self.merge(torch.stack(kinds, dim=-1).flatten(1))  # of (m, 3q)
        return merged


def token_bound(channels: int, rank: int, patch_px: int) -> float:
    """Bound the uniform distribution of initial tokens, or of both their factors."""
    spread = math.sqrt(channels * rank) if rank else channels
    return math.sqrt(6 / (3 * patch_px**2 + spread))


def refine_blocks(
    blocks: Sequence[Callable[[Tensor], Tensor]],
    hidden: Tensor,
    rein: LowRankTokens | None,
    *,
    start: int = 0,
    prefix: int = 1,
    taps: Iterable[int],
) -> list[Tensor]:
    """Run a frozen ViT's blocks from one on, each refined, its result the next one's input.

    Blocks before `start` are frozen and never see a token, so their result can be stored: running
    the rest from what is stored gives the same bits as running all.

    Args:
        blocks: All L' of the ViT: (B, prefix + N, C) -> the same.
        hidden: What enters block `start`.
        rein: Its layer 0 refines block `start`; None is the frozen control.
        start: First block to run.
        prefix: Leading tokens that are no patches.
        taps: Blocks whose refined result is returned; `start - 1` stands for `hidden` itself.

    Returns:
        Patches (B, N, C) after each tap, in the order of the blocks.
    """
    wanted = set(taps)
    assert min(wanted) >= start - 1, f"block {min(wanted)} is before what is stored"
    seen = [hidden] if start - 1 in wanted else []
    for number, block in enumerate(blocks[start:], start=start):
        hidden = block(hidden)
        if rein is not None:
            hidden = rein(hidden, number - start, prefix=prefix)
        if number in wanted:
            seen.append(hidden)
    return [tokens[:, prefix:] for tokens in seen]


def pyramid(taps: Sequence[Tensor], grid: tuple[int, int]) -> list[Tensor]:
    """Resize patches (B, N, C) of four taps to 4, 2, 1 and 1/2 times the grid, (B, C, h, w).

    An odd side is halved downwards and sampled at every second cell, as officially: factors, not
    sizes, are what is given.
    """
    maps = [tap.transpose(1, 2).reshape(*tap.shape[::2], *grid) for tap in taps]
    return [
        map_
        if factor == 1
        else F.interpolate(map_, scale_factor=factor, mode="bilinear", align_corners=False)
        for map_, factor in zip(maps, (4, 2, 1, 0.5), strict=True)
    ]


def position_code(stored: Tensor, grid: tuple[int, int]) -> Tensor:
    """Fit a square position code (1, 1 + n^2, C), class token first, to another grid.

    Kept as it is on its own grid. Elsewhere resized by the factors (h + 0.1) / n and (w + 0.1) / n,
    as official DINOv2 does; transformers resizes to the size, which gives other numbers.

    Returns:
        (1, 1 + h w, C).
    """
    side = math.isqrt(stored.shape[1] - 1)
    if grid == (side, side):
        return stored
    factors = [(cells + 0.1) / side for cells in grid]
    return _resample_code(stored, scale_factor=factors)


def resize_position_code(stored: Tensor, side: int) -> Tensor:
    """Convert a square position code (1, 1 + n^2, C) to another square grid, once and for all."""
    return _resample_code(stored, size=(side, side))


def resize_patch_kernel(kernel: Tensor, side_px: int) -> Tensor:
    """Convert the kernel (C, 3, p, p) of a patch embedding to another patch; not rescaled."""
    return F.interpolate(kernel, (side_px, side_px), mode="bicubic", align_corners=False)


def _resample_code(
    stored: Tensor,
    *,
    size: tuple[int, int] | None = None,
    scale_factor: Sequence[float] | None = None,
) -> Tensor:
    side = math.isqrt(stored.shape[1] - 1)
    cells = stored[:, 1:].transpose(1, 2).reshape(1, -1, side, side)  # (1, C, n, n)
    resized = F.interpolate(
        cells,
        size,
        None if scale_factor is None else list(scale_factor),
        mode="bicubic",
        align_corners=False,
    )
    return torch.cat([stored[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)
