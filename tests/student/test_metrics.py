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


def test_predicted_only_scores_zero_and_absent_is_undefined() -> None:
    matrix = matrix_of((PREDICTION, LABEL))
    np.testing.assert_allclose(matrix.iou(), [2 / 3, 2 / 4, 0.0, np.nan], rtol=1e-15)
    np.testing.assert_allclose(matrix.class_accuracy(), [2 / 3, 2 / 3, np.nan, np.nan], rtol=1e-15)
    assert matrix.mean_iou() == pytest.approx((2 / 3 + 1 / 2 + 0) / 3, rel=1e-15)
    assert matrix.mean_accuracy() == pytest.approx(2 / 3, rel=1e-15)
    assert matrix.accuracy() == pytest.approx(4 / 6, rel=1e-15)


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


@pytest.mark.parametrize("what", ["prediction", "label"])
@pytest.mark.parametrize("bad_id", [4, 254, -1])
def test_ids_outside_the_table_are_refused(what: str, bad_id: int) -> None:
    pair = {"prediction": np.array([0, 1]), "label": np.array([0, 1])}
    pair[what][1] = bad_id
    with pytest.raises(DataError, match=f"the {what} holds .*{bad_id}.* has 4 classes"):
        ConfusionMatrix(4).update(**pair)


def test_report_is_percent_with_two_decimals_and_none_where_undefined() -> None:
    report = Metrics.of(matrix_of((PREDICTION, LABEL)), ("a", "b", "c", "d"), images=1)
    assert report.iou == {"a": 66.67, "b": 50.0, "c": 0.0, "d": None}
    assert report.class_accuracy == {"a": 66.67, "b": 66.67, "c": None, "d": None}
    assert (report.accuracy, report.mean_accuracy, report.images) == (66.67, 66.67, 1)
    assert report.miou == 38.89


def test_means_are_taken_before_rounding() -> None:
    matrix = ConfusionMatrix(2)
    matrix.counts[:] = [[5, 4], [6, 8]]
    report = Metrics.of(matrix, ("a", "b"), images=1)
    assert report.iou == {"a": 33.33, "b": 44.44}  # 1/3 and 4/9; the mean of these is 38.885
    assert report.miou == 38.89  # 7/18 = 38.8889 %


def test_nothing_labelled_is_an_error_not_a_nan() -> None:
    matrix = matrix_of((PREDICTION, np.full_like(LABEL, 255)))
    with pytest.raises(DataError, match="no labelled pixel in 3 images"):
        Metrics.of(matrix, ("a", "b", "c", "d"), images=3)
    assert np.isnan([matrix.mean_iou(), matrix.mean_accuracy(), matrix.accuracy()]).all()
