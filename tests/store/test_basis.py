"""Principal components, against the singular value decomposition of all tokens."""

import numpy as np
import pytest
from numpy.typing import NDArray

from store.codec import Projection, fit_basis
from store.errors import StoreError

RNG = np.random.default_rng(5)
MIXING = RNG.normal(size=(6, 6)) * [3, 2, 1.5, 1, 0.5, 0.2]
SAMPLE = [
    (np.tensordot(MIXING, RNG.normal(size=(6, *size)), 1) + 4).astype(np.float32)
    for size in ((5, 9), (12, 7), (8, 8))
]


def tokens(images: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """(N, C)"""
    return np.concatenate([image.reshape(len(image), -1) for image in images], axis=1).T.astype(
        float
    )


@pytest.mark.parametrize("channels", [1, 4, 6])
@pytest.mark.parametrize("whiten", [False, True])
def test_stored_channels_are_the_principal_components(channels: int, whiten: bool) -> None:
    basis = fit_basis("stride8", SAMPLE, Projection(channels, whiten))
    centred = tokens(SAMPLE) - tokens(SAMPLE).mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    wanted = centred @ axes[:channels].T
    if whiten:
        wanted /= singular[:channels] / np.sqrt(len(centred))
    found = tokens([basis.project(image) for image in SAMPLE])
    assert found.shape == (len(centred), channels)
    signs = np.sign((found * wanted).sum(0))
    np.testing.assert_allclose(found, wanted * signs, atol=1e-4)
    np.testing.assert_allclose(
        basis.explained, (singular**2 / (singular**2).sum())[:channels], rtol=1e-4
    )


def test_components_that_do_not_vary_cannot_be_whitened() -> None:
    flat = [np.concatenate([image, image[:1]]) for image in SAMPLE]  # 7 channels, 6 that differ
    with pytest.raises(
        StoreError, match=r"6 principal components, not 7 .* lower store\.channels to 6"
    ):
        fit_basis("stride8", flat, Projection(7, whiten=True))
    assert fit_basis("stride8", flat, Projection(7, whiten=False)).explained[6] < 1e-12


def test_features_that_are_not_finite_have_no_components() -> None:
    broken = [*SAMPLE, np.full((6, 2, 2), np.inf, np.float32)]
    with pytest.raises(StoreError, match=r"stride8: .*NaN, Inf"):
        fit_basis("stride8", broken, Projection(2, whiten=False))
