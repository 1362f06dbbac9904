"""A linear probe finds what is linear, on the tokens and labels that it is given."""

import numpy as np
import pytest
import torch

from stages.evaluate.probe import Image, probe
from stages.label.classifier import LinearProbe
from store.errors import DataError

K = 3
NAMES = ("a", "b", "c")


def blobs(rng: np.random.Generator, *, shift: float = 0.0) -> Image:
    """Draw tokens (4, 8, 8) that cluster by class, all moved by a shift of the domain."""
    labels = rng.integers(0, K, (8, 8)).astype(np.uint8)
    centres = np.array([[4, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0]], np.float32)
    kept = centres[labels].transpose(2, 0, 1) + 0.3 * rng.standard_normal((4, 8, 8))
    lost = kept + np.array([shift, -shift, 0, 0])[:, None, None]
    return {"kept": (kept.astype(np.float16), labels), "lost": (lost.astype(np.float32), labels)}


def images(seed: int, shift: float = 0.0, count: int = 6) -> list[Image]:
    rng = np.random.default_rng(seed)
    return [blobs(rng, shift=shift) for _ in range(count)]


def test_features_that_mean_the_same_keep_their_score_and_shifted_ones_lose_it() -> None:
    scores = probe(images(0), {"day": images(1), "dusk": images(2, shift=6.0)}, NAMES)
    assert set(scores) == {(f, t) for f in ("kept", "lost") for t in ("day", "dusk")}
    assert scores["kept", "day"].miou > 99
    assert scores["kept", "dusk"].miou > 99
    assert scores["lost", "day"].miou > 99
    assert scores["lost", "dusk"].miou < 50
    assert scores["kept", "day"].images == 6


def test_the_classifier_agrees_with_one_fitted_by_plain_gradient_descent() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((200, 3)).astype(np.float32)
    labels = (tokens @ rng.standard_normal((3, K)) + rng.standard_normal((200, K))).argmax(1)
    found = LinearProbe(tokens, labels.astype(np.uint8), K)
    rows = torch.from_numpy((tokens - tokens.mean(0)) / tokens.std(0)).double()
    design = torch.cat([rows, torch.ones(200, 1)], 1)
    weight = torch.zeros(4, K, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for _ in range(3000):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(design @ weight, torch.from_numpy(labels))
        (loss + 1e-4 * weight[:3].square().sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    expected = (design @ weight).argmax(1).numpy()
    predicted = found.predict(tokens.T[:, :, None])[:, 0]
    assert (predicted == expected).mean() > 0.99


def test_without_a_label_there_is_nothing_to_learn() -> None:
    nothing: Image = {"kept": (np.zeros((4, 2, 2)), np.full((2, 2), 255, np.uint8))}
    with pytest.raises(DataError, match="label some"):
        probe([nothing], {}, NAMES)
