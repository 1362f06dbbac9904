"""Sizes of SAM's image encoders; no torch."""

from dataclasses import dataclass
from typing import Final, Literal

ArchitectureName = Literal["tiny", "vit_b", "vit_l", "vit_h"]

NORM_EPS: Final = 1e-6
"""Epsilon of every LayerNorm in the blocks, as in `segment_anything.build_sam`."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Arguments of the official `ImageEncoderViT` that tell one encoder from another."""

    name: str  # in params, store and messages
    width: int  # channels of the transformer blocks
    depth: int
    heads: int  # per block
    global_blocks: tuple[int, ...]  # that attend to the whole grid instead of windows
    side_px: int = 1024  # of the square input; the encoder takes no other size
    patch_px: int = 16  # input pixels per token
    mlp_ratio: float = 4.0  # hidden width of the MLP, in units of `width`
    window_tok: int = 14  # of attention; `side_px / patch_px` need not be a multiple
    channels: int = 256  # of the output, after the neck


# The three of `segment_anything.build_sam`, and a small one of the same class for demo and tests:
# its 16x16 grid is not a multiple of its window either, and a tile takes some 8 ms on one CPU core.
ARCHITECTURES: Final[dict[ArchitectureName, Architecture]] = {
    "tiny": Architecture("tiny", 96, 4, 3, (1, 3), side_px=256, window_tok=7, channels=64),
    "vit_b": Architecture("vit_b", 768, 12, 12, (2, 5, 8, 11)),
    "vit_l": Architecture("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": Architecture("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
}
