"""`ssr evaluate` of other weights, other students, other ways of looking and further datasets."""

import json
import shutil
from pathlib import Path
from typing import Any

from stages.student.saved import read_card
from tests.pipeline.mistakes import assert_refused
from tests.pipeline.workplace import change_params, demand


def metrics(run: str = "runs") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(run, "metrics.json").read_text())
    return content


def student_of(folder: str) -> str:
    return read_card(Path(folder)).weights_sha256[:12]


def test_student_and_averaged_model_are_measured_each(photos: Path) -> None:
    demand("evaluate")
    assert (metrics()["weights"], metrics()["student"]) == ("student", student_of("runs/student"))
    said = demand("evaluate", "--weights", "ema")
    assert "the averaged model" in said
    assert (metrics()["weights"], metrics()["student"]) == ("ema", student_of("runs/ema"))
    assert student_of("runs/ema") != student_of("runs/student")
    demand("evaluate", "-S", "evaluate.weights=ema", "--out", "runs")
    assert metrics()["weights"] == "ema"


def test_source_only_training_leaves_no_averaged_model_behind(photos: Path) -> None:
    change_params(photos, {"train.self_training": None, "train.regularizer.on": ["source"]})
    assert Path("runs/ema").is_dir()
    demand("train", "--fresh")
    assert not Path("runs/ema").exists()


def test_another_student_has_its_results_beside_it(photos: Path) -> None:
    before = metrics()
    said = demand("evaluate", "--model", "runs/best")
    assert "runs/best/metrics.json: 2 images" in said
    assert metrics("runs/best")["student"] == student_of("runs/best")
    assert metrics() == before
    demand("evaluate", "--model", "runs/best", "--out", "runs/other")
    assert metrics("runs/other")["student"] == student_of("runs/best")
    demand("evaluate", "--model", "runs", "--weights", "ema", "--out", "runs/averaged")
    assert metrics("runs/averaged")["student"] == student_of("runs/ema")


def test_an_averaged_model_of_another_run_is_refused(photos: Path) -> None:
    demand("train", "-S", "train.seed=5", "--out", "runs/five")
    shutil.rmtree("runs/ema")
    shutil.move("runs/five/ema", "runs/ema")
    assert_refused("evaluate --weights ema", "runs/ema is not of the run that made runs/student")
