"""Counts whatever the cut into images; scores of recorded cases are in tests/parity."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from stages.student.metrics import ConfusionMatrix, Metrics
from store.errors import DataError


@given(
    pixels=hnp.arrays(np.uint8, (2, 60), elements=st.integers(0, 5)),
    split=st.integers(0, 60),
)
def test_any_cut_into_images_gives_the_same_counts(pixels: NDArray[Any], split: int) -> None:
    prediction, label = pixels[0], np.where(pixels[1] == 5, 255, pixels[1])
    matrix = ConfusionMatrix(6)
    for part in (slice(split), slice(split, None)):
        matrix.update(prediction[part], label[part])
    for row, column in np.ndindex(6, 6):
        assert matrix.counts[row, column] == np.sum((label == row) & (prediction == column))


def test_nothing_labelled_is_an_error_not_a_nan() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([0, 1]), np.array([255, 255]))
    with pytest.raises(DataError, match="no labelled pixel in 3 images"):
        Metrics.of(matrix, ("a", "b"), images=3)
    assert np.isnan([matrix.mean_iou(), matrix.mean_accuracy(), matrix.accuracy()]).all()
