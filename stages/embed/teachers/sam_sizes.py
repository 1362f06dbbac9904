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
        name: name in params, store and messages.
        side_px: side of the square input; the encoder takes no other size.
        patch_px: input pixels per token.
        width: channels of the transformer blocks.
        depth: number of blocks.
        heads: attention heads per block.
        mlp_ratio: hidden width of the MLP, in units of `width`.
        window_tok: side of the attention windows; `side_px / patch_px` need not be a multiple.
        global_blocks: blocks that attend to the whole grid instead of windows.
        channels: channels of the output, after the neck.
    """

    name: str
    side_px: int
    patch_px: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    window_tok: int
    global_blocks: tuple[int, ...]
    channels: int


def _sam(
    name: str, width: int, depth: int, heads: int, global_blocks: tuple[int, ...]
) -> Architecture:
    return Architecture(
        name=name,
        side_px=1024,
        patch_px=16,
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=4.0,
        window_tok=14,
        global_blocks=global_blocks,
        channels=256,
    )


# The three of `segment_anything.build_sam`, and a small one of the same class for demo and tests:
# its 16x16 grid is not a multiple of its window either, and a tile takes some 8 ms on one CPU core.
ARCHITECTURES: Final[dict[ArchitectureName, Architecture]] = {
    "tiny": Architecture(
        name="tiny",
        side_px=256,
        patch_px=16,
        width=96,
        depth=4,
        heads=3,
        mlp_ratio=4.0,
        window_tok=7,
        global_blocks=(1, 3),
        channels=64,
    ),
    "vit_b": _sam("vit_b", 768, 12, 12, (2, 5, 8, 11)),
    "vit_l": _sam("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": _sam("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
}
