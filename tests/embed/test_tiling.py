"""Tiles cover the token grid and their weights share it out."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.embed.task import add_tile
from stages.embed.tiling import plan_tiles, spans

lengths = st.integers(1, 300)
sides = st.integers(2, 64)
overlaps = st.sampled_from([0.0, 0.1, 0.125, 0.25, 1 / 3, 0.5])


@given(lengths, sides, overlaps)
def test_tiles_cover_an_axis_and_share_it_out(length: int, side: int, overlap: float) -> None:
    parts = spans(length, side, overlap)
    assert parts[0].origin_tok == 0
    assert parts[-1].origin_tok + parts[-1].length_tok == length
    assert {span.length_tok for span in parts} == {min(side, length)}
    gaps = np.diff([span.origin_tok for span in parts])
    assert (side - gaps >= overlap * side - 1e-9).all()
    assert np.ptp(gaps) <= 1 if len(gaps) else length <= side
    shares = np.zeros((len(parts), length))
    for row, span in zip(shares, parts, strict=True):
        assert (span.weights > 0).all()
        row[span.origin_tok : span.origin_tok + span.length_tok] = span.weights
    np.testing.assert_allclose(shares.sum(axis=0), 1.0, rtol=0, atol=1e-12)
    alone = (shares > 0).sum(axis=0) == 1
    assert (shares[:, alone].max(axis=0, initial=0.0) == 1.0).all()


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 16), overlaps)
def test_blending_tiles_of_one_picture_gives_the_picture(
    h: int, w: int, side: int, o: float
) -> None:
    values = np.arange(2 * (h + side) * (w + side), dtype=np.float32) % 97
    picture = values.reshape(2, h + side, w + side)
    tiles = plan_tiles((h, w), side, o)
    cut = [picture[:, y : y + side, x : x + side] for y, x in (tile.origin_tok for tile in tiles)]
    blended = torch.zeros(2, h, w)
    for tile, tokens in zip(tiles, cut, strict=True):
        add_tile(blended, tile, torch.from_numpy(tokens))
    np.testing.assert_allclose(blended, picture[:, :h, :w], rtol=1e-6, atol=1e-5)
