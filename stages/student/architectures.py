"""The backbones that can learn; no torch, so that `ssr plan` need not import it."""

from dataclasses import dataclass
from typing import Literal

BackboneName = Literal["mit_tiny", "mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5"]


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
