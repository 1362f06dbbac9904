"""SeMask: attention within a stage whose queries are a class map, and its light decoder.

arXiv 2112.12782; official files of the FPN tree: `semask_swin_transformer.py`,
`branch_fpn_head.py` and `semask_decode_head.py`.

# B batch, C_i channels of stage i, K classes, H_i W_i its cells, N tokens that see each other
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.student.hrda import PixelLoss
from store.errors import ConfigError

INITIAL_STD: Final = 0.02
AUXILIARY_WEIGHT: Final = 0.4
DROPOUT: Final = 0.1


class SemanticAttention(nn.Module):
    """Attention with K channels in queries and keys, one head, no scaling, no position code.

    `gamma` starts at 0, so that tokens pass unchanged. The projection does not, unlike in three of
    the four official variants: with both at 0 no gradient reaches the attention, ever.

    With `attends` False there is the class map alone, which costs nothing at inference.
    """

    def __init__(self, channels: int, num_classes: int, *, attends: bool = True) -> None:
        super().__init__()
        self.attends = attends
        self.query = nn.Linear(channels, num_classes)
        if attends:
            self.key = nn.Linear(channels, num_classes)
            self.value = nn.Linear(channels, channels)
            self.project = nn.Linear(channels, channels)
            self.gamma = nn.Parameter(torch.zeros(1))
            self.drop = nn.Dropout(DROPOUT)
        self.apply(_initialise)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised tokens (B, 1, N, C_i) to their class map (B, 1, N, K) and tokens again."""
        query = self.query(tokens)
        if not self.attends:
            return query, tokens
        key, value = self.key(tokens), self.value(tokens)
        read = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return query, tokens + self.gamma * self.drop(self.project(read))


class SemanticLayer(nn.Module):
    """Semantic attention over a map that a LayerNorm has just made, as a MiT stage ends with one.

    Windows, of `window` cells a side, None sees the whole map, are not shifted. Zeros fill the last
    ones, at the right and bottom, and take part as keys without a mask, as officially. Of `depth`
    attentions in a row the last one's queries are the class map.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        window: int | None,
        attends: bool = True,
        depth: int = 1,
    ) -> None:
        super().__init__()
        self.window, self.attends = window, attends
        self.attentions = nn.ModuleList(
            SemanticAttention(channels, num_classes, attends=attends) for _ in range(depth)
        )

    def forward(self, map_: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C_i, H_i, W_i) to a class map (B, K, H_i, W_i) and a map of the same shape."""
        height, width = map_.shape[2:]
        window = (height, width) if self.window is None else (self.window, self.window)
        filled = F.pad(map_, (0, -width % window[1], 0, -height % window[0]))
        tokens = _split(filled, window)
        class_map = tokens
        for attention in self.attentions:
            class_map, tokens = attention(tokens)
        class_map, seen = (_join(each, filled, window) for each in (class_map, tokens))
        return class_map[..., :height, :width], seen[..., :height, :width]


def semantic_layers(
    channels: Sequence[int], num_classes: int, *, window: int | None, attends: bool
) -> nn.ModuleList:
    """Build the layers of a student, one for each stage; the arguments of `SemanticLayer`.

    Raises:
        ConfigError: If a stage has fewer channels than there are classes.
    """
    if num_classes > min(channels):
        raise ConfigError(
            f"train.student.semask: {num_classes} classes are more than the {min(channels)} "
            "channels of a stage; take a wider backbone, or set it to null"
        )
    return nn.ModuleList(
        SemanticLayer(width, num_classes, window=window, attends=attends) for width in channels
    )


def semantic_features(
    stages: Iterable[Callable[[Tensor], Tensor]], layers: Iterable[nn.Module], images: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Run stages and semantic layers in turn; what a layer returns is what the next stage sees.

    Returns:
        The maps (B, C_i, H_i, W_i) and class maps (B, K, H_i, W_i), finest first.
    """
    features, class_maps = [], []
    for stage, layer in zip(stages, layers, strict=True):
        class_map, images = layer(stage(images))
        features.append(images)
        class_maps.append(class_map)
    return features, class_maps


def sum_class_maps(class_maps: Sequence[Tensor], *, align_corners: bool = False) -> Tensor:
    """Add the class maps, finest first, to logits (B, K, H_0, W_0): the light semantic decoder.

    Map j is doubled j times and only then resized: one direct resize gives other numbers. The
    official copies for Mask2Former align corners.
    """
    total = class_maps[0]
    for doublings, map_ in enumerate(class_maps[1:], start=1):
        for _ in range(doublings):
            map_ = F.interpolate(map_, scale_factor=2, mode="bilinear", align_corners=align_corners)
        total = total + F.interpolate(
            map_, class_maps[0].shape[2:], mode="bilinear", align_corners=align_corners
        )
    return total


def auxiliary_loss(
    class_maps: Sequence[Tensor],
    label: Tensor,
    weight: Tensor | None = None,
    *,
    loss: PixelLoss,
    factor: float = AUXILIARY_WEIGHT,
) -> Tensor:
    """Return `factor` times the loss of the summed class maps, for a label (B, H, W) int64.

    Differs from SeMask, which is supervised: `weight` (B, H, W) is that of pseudo-labels on target
    images. Ignored pixels add nothing to `loss`, and stay in its denominator.
    """
    return factor * loss(sum_class_maps(class_maps), label, weight)


def _split(map_: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut (B, C, H, W) into the tokens of its windows, (B windows, 1, N, C)."""
    batch, channels, height, width = map_.shape
    rows, columns = height // window[0], width // window[1]
    cells = map_.reshape(batch, channels, rows, window[0], columns, window[1])
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(-1, 1, window[0] * window[1], channels)


def _join(tokens: Tensor, map_: Tensor, window: tuple[int, int]) -> Tensor:
    """Undo `_split` for the grid of `map_`, whatever the channels."""
    batch, _, height, width = map_.shape
    rows, columns = height // window[0], width // window[1]
    cells = tokens.view(batch, rows, columns, *window, -1)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, height, width)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
        nn.init.zeros_(module.bias)
