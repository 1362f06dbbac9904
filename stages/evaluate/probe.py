"""Domain invariance of features: a linear classifier learns on the source, is scored on both.

It is trained on labelled tokens of the source. Features that mean the same in both domains lose
little on the target.
"""

# C channels, h w tokens, H W pixels, N tokens, K classes

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.prepare.labels import IGNORE
from stages.student.metrics import ConfusionMatrix
from store.errors import DataError

Labelled = tuple[NDArray[Any], NDArray[np.uint8]]
"""Features (C, h, w) of one image, and the labels (h, w) of its tokens."""
Image = Mapping[str, Labelled]
"""Name of the features -> one image's."""

_RIDGE: Final = 1e-4  # of the squared weights, beside the mean cross entropy
_STEPS: Final = 150
_MOST_TOKENS: Final = 512  # of one image that a classifier learns from


@dataclass(frozen=True, slots=True)
class Score:
    """What a classifier gets right.

    Attributes:
        images: Number of images.
        tokens: Number of their tokens that have a label.
        miou: Mean intersection over union of the tokens' classes, percent.
        accuracy: Share of tokens, percent.
        iou: Per class, percent; None where it is neither there nor found.
    """

    images: int
    tokens: int
    miou: float
    accuracy: float
    iou: tuple[float | None, ...]


class LinearProbe:
    """Multinomial logistic regression on standardised features; equal tokens give equal weights.

    Args:
        tokens: (N, C) float32, at least one.
        labels: (N,) class ids.
        classes: K.
    """

    def __init__(
        self, tokens: NDArray[np.float32], labels: NDArray[np.uint8], classes: int
    ) -> None:
        rows, ids = torch.from_numpy(tokens), torch.from_numpy(labels).long()
        self._mean = rows.mean(0)
        self._std = rows.std(0, correction=0).clamp(min=1e-6)
        self._weight, self._bias = _fit((rows - self._mean) / self._std, ids, classes)

    def predict(self, features: NDArray[Any]) -> NDArray[np.int64]:
        """Classify tokens (C, h, w): class ids (h, w)."""
        channels, height, width = features.shape
        rows = torch.from_numpy(features.reshape(channels, -1).T.astype(np.float32))
        logits = (rows - self._mean) / self._std @ self._weight + self._bias
        ids: NDArray[np.int64] = logits.argmax(1).reshape(height, width).numpy()
        return ids


def probe(
    learn: Iterable[Image], tests: Mapping[str, Iterable[Image]], classes: int
) -> dict[tuple[str, str], Score]:
    """Learn a classifier of each kind of features, and score it.

    Args:
        learn: Images to learn from.
        tests: Name of each test -> its images. These and the others are read once.
        classes: K.

    Returns:
        (name of the features, name of the test) -> score.

    Raises:
        DataError: No token of the images to learn from, or of a test, has a label.
    """
    rows: dict[str, list[tuple[NDArray[np.float32], NDArray[np.uint8]]]] = defaultdict(list)
    for image in learn:
        for name, (features, labels) in image.items():
            rows[name].append(_rows(features, labels))
    probes = {}
    for name, parts in rows.items():
        tokens, ids = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        if not len(ids):
            raise DataError("none of the images to learn from has a labelled token: label some")
        probes[name] = LinearProbe(tokens.astype(np.float32), ids.astype(np.uint8), classes)
    scores: dict[tuple[str, str], Score] = {}
    for test, images in tests.items():
        matrices = {name: ConfusionMatrix(classes) for name in probes}
        count = 0
        for image in images:
            count += 1
            for name, (features, labels) in image.items():
                matrices[name].update(probes[name].predict(features), labels)
        if not all(matrix.counts.any() for matrix in matrices.values()):
            raise DataError(f"none of the {count} images of {test} has a labelled token")
        scores |= {(name, test): _score(matrix, count) for name, matrix in matrices.items()}
    return scores


def _score(matrix: ConfusionMatrix, images: int) -> Score:
    iou = (None if np.isnan(share) else 100 * float(share) for share in matrix.iou())
    return Score(
        images=images,
        tokens=int(matrix.counts.sum()),
        miou=100 * matrix.mean_iou(),
        accuracy=100 * matrix.accuracy(),
        iou=tuple(iou),
    )


def token_labels(label: NDArray[np.uint8], stride: int, classes: int) -> NDArray[np.uint8]:
    """Give every token the class of most of its labelled pixels.

    Args:
        label: (H, W) class ids; 255 is ignored.
        stride: Pixels per token, divides H and W.
        classes: K.

    Returns:
        (h, w); 255 where no pixel of the token has a label. Of equals the lowest id wins.
    """
    height, width = (side // stride for side in label.shape)
    cells = label.reshape(height, stride, width, stride).swapaxes(1, 2).reshape(-1, stride**2)
    counts = np.stack([(cells == k).sum(1) for k in range(classes)], axis=1)  # (hw, K)
    ids = np.where(counts.any(1), counts.argmax(1), IGNORE).astype(np.uint8)
    return ids.reshape(height, width)


def on_grid(features: Tensor, size_tok: tuple[int, int]) -> NDArray[np.float32]:
    """Bring features (C, h, w) of another stride to a token grid: averaged, or interpolated."""
    finer = features.shape[1] > size_tok[0]
    resized = F.interpolate(
        features[None].float(), size_tok, mode="bilinear", align_corners=False, antialias=finer
    )
    on: NDArray[np.float32] = resized[0].cpu().numpy()
    return on


def _rows(
    features: NDArray[Any], labels: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Take labelled tokens of an image, evenly spread: (n, C) and (n,)."""
    (places,) = np.nonzero(labels.ravel() != IGNORE)
    places = places[:: max(1, -(-len(places) // _MOST_TOKENS))]
    tokens = features.reshape(len(features), -1)[:, places].T
    return tokens.astype(np.float32), labels.ravel()[places]


def _fit(tokens: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Minimise the ridged cross entropy from zero; the same for the same tokens."""
    weight = torch.zeros(tokens.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(tokens @ weight + bias, labels) + _RIDGE * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
