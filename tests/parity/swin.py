"""The trunk of a Swin encoder in functions, from official weights; we offer no such student."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SemanticBlock(nn.Module):
    """Our semantic layer with a norm of its own, as Swin encoders have it."""

    def __init__(
        self, semask: ModuleType, channels: int, num_classes: int, *, window: int | None, depth: int
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.layer = semask.SemanticLayer(channels, num_classes, window=window, depth=depth)

    def forward(self, map_: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.norm(map_.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        class_map, seen = self.layer(normed)
        return class_map, seen


def swin_stage(trunk: Mapping[str, Tensor], sub: Any, stage: int, maps: Tensor) -> Tensor:  # noqa: ANN401
    """Run what comes before a semantic layer: embedding or merging of patches, and blocks."""
    if stage == 0:
        maps = F.pad(maps, (0, -maps.shape[3] % 4, 0, -maps.shape[2] % 4))
        weight, bias = (trunk[f"patch_embed.proj.{leaf}"] for leaf in ("weight", "bias"))
        cells = F.conv2d(maps, weight, bias, stride=4).permute(0, 2, 3, 1)
        cells = norm(cells, trunk, "patch_embed.norm")
    else:
        merging = f"layers.{stage - 1}.downsample"
        cells = F.pad(maps, (0, maps.shape[3] % 2, 0, maps.shape[2] % 2)).permute(0, 2, 3, 1)
        corners = [(0, 0), (1, 0), (0, 1), (1, 1)]
        cells = torch.cat([cells[:, y::2, x::2] for y, x in corners], dim=-1)
        cells = norm(cells, trunk, f"{merging}.norm") @ trunk[f"{merging}.reduction.weight"].T
    for block in range(sub["depths"][stage]):
        name = f"layers.{stage}.blocks.{block}"
        window, heads = sub["swin_window"], sub["heads"][stage]
        shift = window // 2 if block % 2 else 0
        read = swin_attention(
            norm(cells, trunk, f"{name}.norm1"), trunk, name, heads, window, shift
        )
        cells = cells + read
        hidden = F.gelu(linear(norm(cells, trunk, f"{name}.norm2"), trunk, f"{name}.mlp.fc1"))
        cells = cells + linear(hidden, trunk, f"{name}.mlp.fc2")
    return cells.permute(0, 3, 1, 2)


def swin_attention(
    cells: Tensor, trunk: Mapping[str, Tensor], name: str, heads: int, window: int, shift: int
) -> Tensor:
    batch, height, width, channels = cells.shape
    cells = F.pad(cells, (0, 0, 0, -width % window, 0, -height % window))
    rows, columns = cells.shape[1] // window, cells.shape[2] // window

    def split(grid: Tensor) -> Tensor:
        parts = grid.reshape(-1, rows, window, columns, window, grid.shape[-1]).transpose(2, 3)
        return parts.reshape(-1, window * window, grid.shape[-1])

    tokens = split(cells.roll((-shift, -shift), (1, 2)))
    query, key, value = (
        linear(tokens, trunk, f"{name}.attn.qkv")
        .reshape(-1, window * window, 3, heads, channels // heads)
        .permute(2, 0, 3, 1, 4)
    )
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    apart = places[:, None] - places[None] + window - 1
    table = trunk[f"{name}.attn.relative_position_bias_table"]
    scores = query @ key.transpose(-2, -1) * (channels // heads) ** -0.5
    scores = scores + table[apart[..., 0] * (2 * window - 1) + apart[..., 1]].permute(2, 0, 1)
    if shift:
        parts = [
            (torch.arange(side) >= side - window).long() + (torch.arange(side) >= side - shift)
            for side in cells.shape[1:3]
        ]
        regions = (3 * parts[0][:, None] + parts[1])[None, :, :, None]
        region = split(regions)
        others = (region != region.transpose(1, 2)) * -100.0  # (windows, N, N)
        scores = scores + others[:, None].repeat(batch, 1, 1, 1)
    read = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    grid = linear(read, trunk, f"{name}.attn.proj").view(
        batch, rows, columns, window, window, channels
    )
    joined = grid.transpose(2, 3).reshape(cells.shape).roll((shift, shift), (1, 2))
    return joined[:, :height, :width]


def norm(cells: Tensor, trunk: Mapping[str, Tensor], name: str, eps: float = 1e-5) -> Tensor:
    weight, bias = trunk[f"{name}.weight"], trunk[f"{name}.bias"]
    return F.layer_norm(cells, weight.shape, weight, bias, eps)


def linear(cells: Tensor, trunk: Mapping[str, Tensor], name: str) -> Tensor:
    return F.linear(cells, trunk[f"{name}.weight"], trunk[f"{name}.bias"])
