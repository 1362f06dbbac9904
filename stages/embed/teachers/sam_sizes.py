"""Sizes of SAM's image encoders; no torch."""

from dataclasses import dataclass
from typing import Final, Literal

ArchitectureName = Literal["tiny", "vit_b", "vit_l", "vit_h"]

NORM_EPS: Final = 1e-6
"""Epsilon of every LayerNorm in the blocks, as in `segment_anything.build_sam`."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Arguments of the official `ImageEncoderViT` that tell one encoder from another.

    Attributes:
        name: in params, store and messages.
        width: channels of the transformer blocks.
        depth: number of blocks.
        heads: attention heads per block.
        global_blocks: blocks that attend to the whole grid instead of windows.
        side_px: side of the square input; the encoder takes no other size.
        patch_px: input pixels per token.
        mlp_ratio: hidden width of the MLP, in units of `width`.
        window_tok: side of the attention windows; `side_px / patch_px` need not be a multiple.
        channels: of the output, after the neck.
    """

    name: str
    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    side_px: int = 1024
    patch_px: int = 16
    mlp_ratio: float = 4.0
    window_tok: int = 14
    channels: int = 256


# The three of `segment_anything.build_sam`, and a small one of the same class for demo and tests:
# its 16x16 grid is not a multiple of its window either, and a tile takes some 8 ms on one CPU core.
ARCHITECTURES: Final[dict[ArchitectureName, Architecture]] = {
    "tiny": Architecture("tiny", 96, 4, 3, (1, 3), side_px=256, window_tok=7, channels=64),
    "vit_b": Architecture("vit_b", 768, 12, 12, (2, 5, 8, 11)),
    "vit_l": Architecture("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": Architecture("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
}
