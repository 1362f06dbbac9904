"""Case 12: mean IoU of the official evaluation, counts exact and shares to 1e-9."""

import numpy as np
import pytest

from stages.student.metrics import ConfusionMatrix, Metrics
from tests.parity.cases import Case, Reference, assert_close

TOL = 1e-9


@pytest.fixture(scope="module")
def case(reference: Reference) -> Case:
    return reference("miou")


@pytest.fixture(scope="module")
def total(case: Case) -> ConfusionMatrix:
    matrix = ConfusionMatrix(case.meta["num_classes"])
    for index in range(case.meta["n_images"]):
        matrix.update(case[f"in/{index}/pred"], case[f"in/{index}/gt"])
    return matrix


def test_areas_of_each_image(case: Case) -> None:
    assert case.meta["per_image_rows"] == ["intersect", "union", "pred", "label"]
    assert len(case["out/per_image"]) == case.meta["n_images"]
    for index, expected in enumerate(case["out/per_image"]):
        matrix = ConfusionMatrix(case.meta["num_classes"])
        matrix.update(case[f"in/{index}/pred"], case[f"in/{index}/gt"])
        areas = (matrix.intersect, matrix.union, matrix.prediction_area, matrix.label_area)
        np.testing.assert_array_equal(np.stack(areas), expected)


def test_areas_of_the_data_set(case: Case, total: ConfusionMatrix) -> None:
    np.testing.assert_array_equal(total.intersect, case["out/total_intersect"])
    np.testing.assert_array_equal(total.union, case["out/total_union"])
    np.testing.assert_array_equal(total.prediction_area, case["out/total_pred"])
    np.testing.assert_array_equal(total.label_area, case["out/total_label"])


def test_shares_and_where_they_are_undefined(case: Case, total: ConfusionMatrix) -> None:
    assert_close(total.iou(), case["out/IoU"], TOL)
    assert_close(np.nan_to_num(total.iou(), nan=-1), case["out/IoU_nan_to_num_-1"], TOL)
    assert_close(total.class_accuracy(), case["out/Acc"], TOL)
    assert_close(total.accuracy(), case["out/aAcc"], TOL)
    assert_close(total.mean_iou(), case["out/mIoU_nanmean"], TOL)
    assert_close(total.mean_accuracy(), case["out/mAcc_nanmean"], TOL)


def test_the_rounded_report(case: Case, total: ConfusionMatrix) -> None:
    official = dict(case.meta["dataset_evaluate"])  # shares that were percent of two decimals
    names = [f"c{index}" for index in range(case.meta["num_classes"])]
    report = Metrics.of(total, names, images=case.meta["n_images"])
    ours = {"mIoU": report.miou, "aAcc": report.accuracy, "mAcc": report.mean_accuracy}
    ours |= {f"IoU.{name}": value for name, value in report.iou.items() if value is not None}
    ours |= {f"Acc.{name}": acc for name, acc in report.class_accuracy.items() if acc is not None}
    assert official.keys() >= ours.keys()
    assert {
        key for key, value in official.items() if value is None
    } == official.keys() - ours.keys()
    assert ours == {key: round(value * 100, 2) for key, value in official.items() if key in ours}
