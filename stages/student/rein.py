"""Rein: low-rank tokens that refine features of a frozen ViT (arXiv 2312.04265).

Written from published facts and recorded numbers; the official code is GPL-3.0 and not used.

# B batch, N patches, C channels, L refined layers, m tokens, r rank, h w grid
"""

import math
from typing import Final

import torch
from torch import Tensor, nn

INITIAL_SCALE: Final = 0.001
"""Ten times as much is known to collapse."""


class LowRankTokens(nn.Module):
    """Tokens of each layer, and the maps shared by all layers that add them to features.

    A `rank` of 0 learns the tokens themselves; `patch_px` sets the bound of the initial ones.
    """

    def __init__(
        self,
        channels: int,
        layers: int,
        *,
        tokens: int = 100,
        rank: int = 16,
        patch_px: int = 16,
    ) -> None:
        super().__init__()
        shapes = [(tokens, rank), (rank, channels)] if rank else [(tokens, channels)]
        self.factors = nn.ParameterList(torch.empty(layers, *shape) for shape in shapes)
        bound = token_bound(channels, rank, patch_px)
        for factor in self.factors:
            nn.init.uniform_(factor, -bound, bound)
        self.to_feature = nn.Linear(channels, channels)
        self.to_delta = nn.Linear(channels, channels)
        self.scale = nn.Parameter(torch.tensor(INITIAL_SCALE))

    def tokens(self, layer: int) -> Tensor:
        """Return the tokens of a layer (m, C)."""
        first, *others = (factor[layer] for factor in self.factors)
        tokens: Tensor = first @ others[0] if others else first
        return tokens

    def shares(self, features: Tensor, layer: int) -> Tensor:
        """Return how much of each token every feature (B, N, C) reads: (B, N, m), sum 1.

        Token 0 is never read: what a feature gives to it is how little it wants to be refined.
        """
        scale: float = features.shape[-1] ** -0.5
        return (features @ self.tokens(layer).T * scale).softmax(dim=-1)

    def forward(self, features: Tensor, layer: int) -> Tensor:
        """Refine the features (B, N, C) of a layer (section 3.2; official file `reins.py`)."""
        values = self.to_feature(self.tokens(layer)[1:])  # (m - 1, C)
        read = self.shares(features, layer)[..., 1:] @ values
        refined: Tensor = features + self.scale * self.to_delta(read + features)
        return refined

    def refine_map(self, map_: Tensor, layer: int) -> Tensor:
        """Refine a map (B, C, h, w), as of a feature store."""
        refined: Tensor = self(map_.flatten(2).transpose(1, 2), layer)
        return refined.transpose(1, 2).reshape(map_.shape)


class QueryLink(nn.Module):
    """Queries of a query-based head, made of the tokens of all layers (section 3.3)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.to_query = nn.Linear(channels, width)
        self.merge = nn.Linear(3 * width, width)

    def forward(self, tokens: LowRankTokens) -> Tensor:
        """Merge largest, mean and last layer's values of each token: queries (m, width)."""
        layers = range(len(tokens.factors[0]))
        each = torch.stack([self.to_query(tokens.tokens(layer)) for layer in layers])
        kinds = [each.max(dim=0).values, each.mean(dim=0), each[-1]]
        merged: Tensor = self.merge(torch.stack(kinds, dim=-1).flatten(1))  # kinds vary fastest
        return merged


def token_bound(channels: int, rank: int, patch_px: int) -> float:
    """Bound the uniform distribution of initial tokens, or of both their factors."""
    spread = math.sqrt(channels * rank) if rank else channels
    return math.sqrt(6 / (3 * patch_px**2 + spread))
