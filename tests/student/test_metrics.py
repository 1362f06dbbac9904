"""Counts and scores checked against matrices worked out by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from stages.student.metrics import ConfusionMatrix, Metrics
from store.errors import DataError

# Four classes: 0 and 1 mixed up, 2 predicted but never labelled, 3 absent from both.
LABEL = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
PREDICTION = np.array([[0, 0, 1, 1], [1, 2, 0, 2]], np.uint8)
Ids = NDArray[Any]


def matrix_of(*pairs: tuple[Ids, Ids], num_classes: int = 4) -> ConfusionMatrix:
    matrix = ConfusionMatrix(num_classes)
    for prediction, label in pairs:
        matrix.update(prediction, label)
    return matrix


@given(
    pixels=hnp.arrays(np.uint8, (2, 60), elements=st.integers(0, 5)),
    split=st.integers(0, 60),
)
def test_any_cut_into_images_gives_the_same_counts(pixels: Ids, split: int) -> None:
    prediction, label = pixels[0], np.where(pixels[1] == 5, 255, pixels[1])
    whole = matrix_of((prediction, label), num_classes=6)
    parts = matrix_of(
        (prediction[:split], label[:split]), (prediction[split:], label[split:]), num_classes=6
    )
    assert np.array_equal(whole.counts, parts.counts)
    for row, column in np.ndindex(6, 6):
        assert whole.counts[row, column] == np.sum((label == row) & (prediction == column))


def test_nothing_labelled_is_an_error_not_a_nan() -> None:
    matrix = matrix_of((PREDICTION, np.full_like(LABEL, 255)))
    with pytest.raises(DataError, match="no labelled pixel in 3 images"):
        Metrics.of(matrix, ("a", "b", "c", "d"), images=3)
    assert np.isnan([matrix.mean_iou(), matrix.mean_accuracy(), matrix.accuracy()]).all()
