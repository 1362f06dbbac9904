"""Tiles cover the token grid and their weights share it out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages.embed.tiling import spans

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
