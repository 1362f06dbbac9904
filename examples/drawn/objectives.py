"""Objectives of pretraining a teacher, without names of classes: what belongs together.

Three objectives ask its tokens, at places finer than a token so that thin things count too:
whether two places are of one object, how far one's own object and the part of it at a place reach,
and where objects and their parts end.
"""

# B crops, C channels, S pixels of a crop's side, h tokens of its side, p places of its side,
# K places that are drawn, E channels of the embedding whose angles are compared

from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

PLACES_PER_TOKEN: Final = 2
"""Along each side: where affinity and extents are asked for."""
EDGES_PER_TOKEN: Final = 4
"""Along each side: where boundaries are."""
DRAWN_PLACES: Final = 384
"""Places of each crop that are compared with one another."""
_EMBEDDING: Final = 32
_LOGIT_SCALE: Final = 8.0
_LOGIT_BIAS: Final = -3.0  # cosines -1 to 1 become logits -11 to 5
_EDGE_WEIGHT: Final = 3.0  # of a place with an edge, which are few, beside one without
_EDGES_WEIGHT: Final = 0.5  # of all edges beside the other objectives
_EXTENT_PX: Final = 4.0  # below it, extents count linearly, above it logarithmically


class Targets(NamedTuple):
    """What is to be told of a batch of crops.

    Attributes:
        drawn: (B, K) int64, which of the p * p places are compared.
        instance: (B, K) int64, the objects there.
        extents: (B, 8, p, p) float32, how far what is visible of the place's own object reaches to
            the left, top, right and bottom, then of its own part, as `log(1 + px / 4)`.
        edges: (B, 2, q, q) float32, 1 where objects meet, then parts; q = h * EDGES_PER_TOKEN.
    """

    drawn: Tensor
    instance: Tensor
    extents: Tensor
    edges: Tensor


class Losses(NamedTuple):
    """One number each, of a batch."""

    affinity: Tensor
    extents: Tensor
    edges: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return self.affinity + self.extents + _EDGES_WEIGHT * self.edges


class Heads(nn.Module):
    """Small heads on the teacher's tokens, which are thrown away afterwards.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(channels, _EMBEDDING * PLACES_PER_TOKEN**2, 1)
        self.extents = nn.Conv2d(channels, 8 * PLACES_PER_TOKEN**2, 1)
        self.edges = nn.Conv2d(channels, 2 * EDGES_PER_TOKEN**2, 1)

    def forward(self, tokens: Tensor, targets: Targets) -> Losses:
        """Compare what tokens (B, C, h, h) tell with what is to be told."""
        return Losses(
            self._affinity(tokens, targets),
            F.smooth_l1_loss(
                F.pixel_shuffle(self.extents(tokens), PLACES_PER_TOKEN), targets.extents, beta=0.5
            ),
            F.binary_cross_entropy_with_logits(
                F.pixel_shuffle(self.edges(tokens), EDGES_PER_TOKEN),
                targets.edges,
                pos_weight=torch.tensor(_EDGE_WEIGHT),
            ),
        )

    def _affinity(self, tokens: Tensor, targets: Targets) -> Tensor:
        places = F.pixel_shuffle(self.embedding(tokens), PLACES_PER_TOKEN).flatten(2)  # (B, E, pp)
        index = targets.drawn[:, None].expand(-1, _EMBEDDING, -1)
        angles = F.normalize(places.gather(2, index), dim=1)  # (B, E, K)
        cosines = torch.einsum("bek,bel->bkl", angles, angles)
        logits = _LOGIT_SCALE * cosines + _LOGIT_BIAS
        same = (targets.instance[:, :, None] == targets.instance[:, None, :]).float()  # (B, K, K)
        # pairs of one object and pairs of two weigh the same in every crop
        ones, twos = same.sum((1, 2), keepdim=True), (1 - same).sum((1, 2), keepdim=True)
        weight = 0.5 * (same / ones + (1 - same) / twos.clamp(min=1))
        loss = F.binary_cross_entropy_with_logits(logits, same, reduction="none")
        return (weight * loss).sum((1, 2)).mean()


def targets_of(masks: NDArray[np.int32], rng: np.random.Generator, *, token_px: int) -> Targets:
    """Say what is to be told of crops.

    Args:
        masks: (B, 2, S, S), the numbers of the objects, and of their parts.
        rng: Draws the places that are compared, those of small objects more often.
        token_px: Pixels of the crop per token.
    """
    pitch = token_px // PLACES_PER_TOKEN
    offset = slice(pitch // 2, None, pitch)
    drawn, objects, extents = [], [], []
    for instance, part in masks:
        at = _number(instance)[offset, offset]  # (p, p)
        share = 1 / np.sqrt(np.bincount(at.ravel()))[at.ravel()]
        picked = rng.choice(at.size, DRAWN_PLACES, p=share / share.sum())
        drawn.append(picked)
        objects.append(at.ravel()[picked])
        extents.append(np.concatenate([_extents(mask, offset) for mask in (instance, part)]))
    return Targets(
        torch.from_numpy(np.stack(drawn)),
        torch.from_numpy(np.stack(objects)),
        torch.from_numpy(np.stack(extents)),
        _edges(torch.from_numpy(masks), token_px // EDGES_PER_TOKEN),
    )


def _number(mask: NDArray[np.int32]) -> NDArray[np.intp]:
    """Number what is in a mask (S, S) from 0 on, without gaps."""
    number: NDArray[np.intp] = np.unique(mask, return_inverse=True)[1].reshape(mask.shape)
    return number


def _extents(mask: NDArray[np.int32], places: slice) -> NDArray[np.float32]:
    """Measure (4, p, p) from each place to the sides of the box around its own mask."""
    number, side = _number(mask), len(mask)
    count = int(number.max()) + 1
    line = np.broadcast_to(np.arange(side), number.shape)
    box = np.empty((4, count))  # left, top, right, bottom
    for row, along in enumerate((line, line.T)):
        low, high = np.full(count, side), np.zeros(count, int)
        np.minimum.at(low, number, along)
        np.maximum.at(high, number, along)
        box[row], box[row + 2] = low, high + 1
    centre = np.arange(side)[places] + 0.5
    x, y = np.meshgrid(centre, centre)
    left, top, right, bottom = box[:, number[places, places]]
    reach = np.stack([x - left, y - top, right - x, bottom - y])
    return np.log1p(reach / _EXTENT_PX).astype(np.float32)


def _edges(masks: Tensor, pitch: int) -> Tensor:
    """Mark (B, 2, q, q) the squares of `pitch` pixels in which objects, or parts, meet."""
    edges = torch.zeros(masks.shape)
    edges[:, :, 1:] += masks[:, :, 1:] != masks[:, :, :-1]
    edges[..., 1:] += masks[..., 1:] != masks[..., :-1]
    return F.max_pool2d(edges.clamp(max=1), pitch)
