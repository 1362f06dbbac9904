"""What the teacher is asked, on a picture whose answers are known by hand."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from examples.drawn.objectives import DRAWN_PLACES, Heads, Targets, targets_of

# 32 px, tokens of 8 px: object 7 is the ground, 3 a square of 8 px, 5 a pole of 2 px
PICTURE = np.full((32, 32), 7, np.int32)
PICTURE[8:16, 16:24] = 3
PICTURE[4:32, 2:4] = 5
NOTHING = np.zeros((32, 32), np.int32)
PARTS = PICTURE.copy()
PARTS[8:12, 16:24] = 4  # the upper half of the square


def targets(
    picture: NDArray[np.int32] = PICTURE, parts: NDArray[np.int32] = PARTS, seed: int = 0
) -> Targets:
    return targets_of(np.stack([picture, parts])[None], np.random.default_rng(seed), token_px=8)


def test_extents_reach_to_the_sides_of_the_object_at_a_place() -> None:
    reach = 4 * np.expm1(targets().extents[0].numpy())  # (8, 8, 8), places of 4 px
    # the place in row 2, column 4 has its middle at pixel (10.5, 18.5), in the square
    np.testing.assert_allclose(reach[:, 2, 4], [2.5, 2.5, 5.5, 5.5, 2.5, 2.5, 5.5, 1.5], rtol=1e-5)
    # on the ground, the box is the whole crop
    np.testing.assert_allclose(reach[:, 0, 0], 2 * [2.5, 2.5, 29.5, 29.5], rtol=1e-5)
    # the pole is thinner than a token, and is there all the same
    np.testing.assert_allclose(reach[:, 4, 0], 2 * [0.5, 14.5, 1.5, 13.5], rtol=1e-5)


def test_edges_are_where_objects_meet() -> None:
    edges, of_parts = targets().edges[0]  # (16, 16), squares of 2 px
    assert edges.shape == (16, 16)
    assert edges[4, 8:12].all()  # upper side of the square
    assert not edges[5:7, 9:11].any()  # its inside
    assert edges[10, 1] == edges[10, 2] == 1  # both sides of the pole
    assert not edges[:, 13:].any()
    assert of_parts[6, 8:12].all()  # between its halves
    assert (of_parts >= edges).all()


def test_places_of_small_objects_are_drawn_more_often_than_their_area() -> None:
    found = targets()
    assert found.drawn.shape == found.instance.shape == (1, DRAWN_PLACES)
    small = (found.instance[0] == 0).float().mean()  # names in order: 3, 5, 7
    assert small > 2 * (8 * 8) / (32 * 32)


def test_tokens_that_know_the_objects_cost_less_than_tokens_that_do_not() -> None:
    torch.manual_seed(0)
    heads = Heads(8)
    known = torch.zeros(1, 8, 4, 4, requires_grad=True)
    asked = targets()
    optimizer = torch.optim.Adam([known, *heads.parameters()], lr=0.03)
    first = heads(known, asked)
    for _ in range(150):
        losses = heads(known, asked)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    for before, after in zip(first, losses, strict=True):
        assert after < 0.5 * before


def test_one_object_alone_is_no_division_by_zero() -> None:
    losses = Heads(8)(torch.randn(1, 8, 4, 4), targets(NOTHING, NOTHING))
    assert torch.isfinite(losses.total)
    assert losses.edges > 0


@pytest.mark.parametrize("scale", [1, 3])
def test_numbers_of_objects_mean_nothing(scale: int) -> None:
    """Names are lost: only which places share one counts, so no class can be learnt."""
    torch.manual_seed(0)
    heads, tokens = Heads(8), torch.randn(1, 8, 4, 4)
    renamed = targets(PICTURE * scale, PARTS * scale)
    assert torch.equal(heads(tokens, renamed).total, heads(tokens, targets()).total)
