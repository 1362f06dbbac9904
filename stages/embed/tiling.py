"""Tiles of the working image that the teacher sees, and their weights.

A level is the teacher run on the working image at the level's `input_scale`. Its tiles are cut in
working pixels, `side_px / input_scale` on a side, at origins that are multiples of the coarsest
stride of that pass. Everything here counts in tokens of the level and knows neither pixels' values
nor torch.

# Differs from SSR: the official code runs SAM on the augmented crop. Tiles of the whole image see
# more context than a crop does; where crop == tile (and no flip) the tokens are the same numbers.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Span:
    """One tile along one axis.

    Attributes:
        origin_tok: first token that it covers.
        weights: (length,) float64, its share in each token that it covers inside the image.
    """

    origin_tok: int
    weights: NDArray[np.float64]

    @property
    def length_tok(self) -> int:
        """Tokens covered inside the image: the tile's side, or less where the image is smaller."""
        return len(self.weights)


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile: a span of rows and a span of columns."""

    rows: Span
    columns: Span

    @property
    def origin_tok(self) -> tuple[int, int]:
        """(y, x) of its first token."""
        return self.rows.origin_tok, self.columns.origin_tok

    @property
    def size_tok(self) -> tuple[int, int]:
        """(height, width) of its part inside the image."""
        return self.rows.length_tok, self.columns.length_tok

    @property
    def weights(self) -> NDArray[np.float32]:
        """(height, width) share in each token, exactly 1 where no other tile covers it."""
        return np.outer(self.rows.weights, self.columns.weights).astype(np.float32)


def spans(length_tok: int, tile_tok: int, overlap: float, align_tok: int = 1) -> tuple[Span, ...]:
    """Cover an axis with the fewest tiles that overlap enough.

    The first tile starts at 0, the last ends with the axis, the others are spaced evenly; an axis
    shorter than a tile gets one tile. Weights ramp linearly over each overlap and sum to 1.

    `overlap` is the least overlap of neighbours as a share of the tile, 0 to 0.5. Origins are
    multiples of `align_tok`, which divides both lengths.
    """
    aligned = _origins(length_tok // align_tok, tile_tok // align_tok, overlap)
    origins = [origin * align_tok for origin in aligned]
    shares = np.zeros((len(origins), length_tok))
    inside = np.arange(min(tile_tok, length_tok)) + 0.5  # centres of a tile's tokens
    for i, origin in enumerate(origins):
        share = np.ones(len(inside))
        if i > 0:
            shared = origins[i - 1] + tile_tok - origin
            share = np.minimum(share, inside / max(shared, 1))
        if i < len(origins) - 1:
            shared = origin + tile_tok - origins[i + 1]
            share = np.minimum(share, (tile_tok - inside) / max(shared, 1))
        shares[i, origin : origin + len(inside)] = share
    # Two opposite ramps sum to 1 already; three tiles may meet where the axis hardly needs them.
    shares /= shares.sum(axis=0)
    return tuple(
        Span(origin, share[origin : origin + tile_tok])
        for origin, share in zip(origins, shares, strict=True)
    )


def plan_tiles(
    size_tok: tuple[int, int], tile_tok: int, overlap: float, align_tok: int = 1
) -> tuple[Tile, ...]:
    """Cover a token grid with tiles, row by row; see `spans`."""
    rows, columns = (spans(length, tile_tok, overlap, align_tok) for length in size_tok)
    return tuple(Tile(row, column) for row in rows for column in columns)


def _origins(length_tok: int, tile_tok: int, overlap: float) -> list[int]:
    reach = length_tok - tile_tok  # of the last tile
    if reach <= 0:
        return [0]
    step = tile_tok - ceil(Fraction(str(overlap)) * tile_tok)  # largest that overlaps enough
    gaps = ceil(Fraction(reach, step))
    return [(2 * i * reach + gaps) // (2 * gaps) for i in range(gaps + 1)]  # rounded half up
