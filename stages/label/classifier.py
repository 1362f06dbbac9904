"""A linear classifier of stored tokens, and the labels of tokens that it learns from.

Legend: C channels, h w tokens, H W pixels, N tokens, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.prepare.labels import IGNORE
from store.errors import DataError
from store.fingerprint import sha256

_RIDGE: Final = 1e-4  # of the squared weights, beside the mean cross entropy
_STEPS: Final = 150
_BINS: Final = 15  # of the calibration error


class LinearProbe:
    """Multinomial logistic regression on standardised features; equal tokens give equal weights.

    Minimises the ridged cross entropy from zero over tokens (N, C), float32, and labels (N,).
    """

    def __init__(
        self, tokens: NDArray[np.float32], labels: NDArray[np.uint8], classes: int
    ) -> None:
        rows, ids = torch.from_numpy(tokens), torch.from_numpy(labels).long()
        self._mean, self._std = rows.mean(0), rows.std(0, correction=0).clamp(min=1e-6)
        rows = (rows - self._mean) / self._std
        weight = torch.zeros(rows.shape[1], classes, requires_grad=True)
        bias = torch.zeros(classes, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(rows @ weight + bias, ids) + _RIDGE * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        self._weight, self._bias = weight.detach(), bias.detach()

    @property
    def digest(self) -> str:
        """SHA-256 of all that it learnt."""
        learnt = (self._mean, self._std, self._weight, self._bias)
        return sha256(b"".join(each.numpy().tobytes() for each in learnt))

    def logits(self, rows: NDArray[Any]) -> Tensor:
        """Score tokens (N, C): float32 (N, K)."""
        tokens = torch.from_numpy(rows.astype(np.float32))
        return (tokens - self._mean) / self._std @ self._weight + self._bias

    def predict(self, features: NDArray[Any]) -> NDArray[np.int64]:
        """Classify tokens (C, h, w): class ids (h, w)."""
        channels, height, width = features.shape
        logits = self.logits(features.reshape(channels, -1).T)
        ids: NDArray[np.int64] = logits.argmax(1).reshape(height, width).numpy()
        return ids


@dataclass(frozen=True)
class Calibrated:
    """A classifier whose probabilities were calibrated on images that it has not seen.

    `about` has its digest, images, accuracy and expected calibration error (arXiv 1706.04599) on
    the images held out, before and after.
    """

    probe: LinearProbe
    temperature: float
    about: Mapping[str, Any]

    def label(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Return the probability of each class (K, h, w) for tokens (C, h, w)."""
        channels, height, width = features.shape
        logits = self.probe.logits(features.reshape(channels, -1).T) / self.temperature
        shares: NDArray[np.float32] = logits.softmax(1).T.reshape(-1, height, width).numpy()
        return shares


def fit_calibrated(
    images: Sequence[tuple[NDArray[np.float32], NDArray[np.uint8]]], classes: int
) -> Calibrated:
    """Fit a classifier to tokens (N, C) and labels (N,) of images; calibrate on the last tenth.

    Neighbours may be frames of one film, so images in between would not be new to it. A single
    image serves for both.

    Raises:
        DataError: No token has a label.
    """
    images = [image for image in images if len(image[1])]
    if not images:
        raise DataError("no image of source/train has a labelled token to learn from: label some")
    held = max(1, len(images) // 10)
    learn = images[:-held] or images
    tokens, ids = (np.concatenate(each) for each in zip(*learn, strict=True))
    probe = LinearProbe(tokens, ids, classes)
    about: dict[str, Any] = {"sha256": probe.digest, "images": len(learn), "held_out": held}
    tokens, ids = (np.concatenate(each) for each in zip(*images[-held:], strict=True))
    logits, target = probe.logits(tokens), torch.from_numpy(ids).long()
    temperature = best_temperature(logits, target)
    right = (logits.argmax(1) == target).float().mean()
    about |= {
        "temperature": round(temperature, 4),
        "accuracy": round(float(right), 4),
        "calibration_error": round(calibration_error(logits / temperature, target), 4),
        "calibration_error_before": round(calibration_error(logits, target), 4),
    }
    return Calibrated(probe, temperature, about)


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return what to divide logits (N, K) by, 1/4 to 8, for the least cross entropy with (N,)."""
    grid: list[float] = torch.logspace(-2, 3, 101, base=2).tolist()
    return min(grid, key=lambda t: float(F.cross_entropy(logits / t, labels)))


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error of logits (N, K).

    It is the gap between confidence and accuracy, averaged over bins of confidence.
    """
    confidence, predicted = logits.softmax(1).max(1)
    off = confidence - (predicted == labels).float()
    bins = (confidence * _BINS).long().clamp(max=_BINS - 1)
    sums = torch.zeros(_BINS).index_add_(0, bins, off)
    return float(sums.abs().sum()) / len(labels)


def token_labels(label: NDArray[np.uint8], stride: int, classes: int) -> NDArray[np.uint8]:
    """Give every token (h, w) the class of most of its labelled pixels.

    It is 255 where no pixel of the token has a label; of equals the lowest id wins. The stride
    divides both sides of the label (H, W).
    """
    height, width = (side // stride for side in label.shape)
    cells = label.reshape(height, stride, width, stride).swapaxes(1, 2).reshape(-1, stride**2)
    counts = np.stack([(cells == k).sum(1) for k in range(classes)], axis=1)  # (hw, K)
    ids = np.where(counts.any(1), counts.argmax(1), IGNORE).astype(np.uint8)
    return ids.reshape(height, width)


def labelled_tokens(
    features: NDArray[Any], labels: NDArray[np.uint8], most: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Take tokens of (C, h, w) with a label in (h, w), `most` of them, evenly spread.

    Returns:
        Tokens (N, C) and their labels (N,).
    """
    (places,) = np.nonzero(labels.ravel() != IGNORE)
    places = places[:: max(1, -(-len(places) // most))]
    tokens = features.reshape(len(features), -1)[:, places].T
    return tokens.astype(np.float32), labels.ravel()[places]
