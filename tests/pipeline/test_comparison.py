"""Evaluated runs side by side: scores on the same images, and one picture of predictions."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.evaluate.pictures import triptych_png
from stages.prepare.datasets.drawn import DRAWN
from stages.student.saved import Card
from tests.pipeline.workplace import demand, ssr
from tests.train.example import train_config

SIDE_PX = 16
ROAD, SKY = 0, 1


def evaluated(
    folder: Path,
    *,
    miou: float,
    predicted: int,
    regularizer: Mapping[str, object] | None,
) -> Path:
    """A run as `ssr evaluate` leaves it: scores, two pictures, and the card of its student."""
    scores = {"images": 2, "content": "0123456789ab", "miou": miou, "accuracy": 50.0}
    scores["iou"] = {"road": miou, "sky": None}
    about = {"student": "0" * 12, "domain": "target", "split": "val"}
    (folder / "pictures").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({**scores, **about}))
    image = np.full((SIDE_PX, SIDE_PX, 3), 90, np.uint8)
    ids = np.full((SIDE_PX, SIDE_PX), predicted, np.uint8)
    for number in range(2):
        png = triptych_png(f"dusk/{number}", image, np.full_like(ids, ROAD), ids, DRAWN)
        (folder / "pictures" / f"{number:03d}-{number}.png").write_bytes(png)
    (folder / "student").mkdir()
    recipe = {} if regularizer is None else {"recipe": {"regularizer": regularizer}}
    card = Card(
        format="ssr-student/1",
        student=train_config().student,
        num_classes=len(DRAWN),
        weights_sha256="0" * 64,
        meta=recipe,
    )
    (folder / "student" / "config.json").write_text(card.model_dump_json())
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.chdir(tmp_path)
    off = {"kind": "ssr", "on": []}
    guided = {"kind": "guided", "on": ["source", "mixed"]}
    evaluated(Path("runs/daformer"), miou=20.0, predicted=SKY, regularizer=off)
    evaluated(Path("runs/guided"), miou=23.5, predicted=ROAD, regularizer=guided)
    return "runs/daformer", "runs/guided"


def test_it_says_what_the_second_run_gains_and_who_had_a_teacher(runs: tuple[str, str]) -> None:
    said = demand("compare", *runs)
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.strip()}
    assert rows["teacher"] == ["teacher", "none", "guided"]
    assert rows["road"] == ["road", "20.00", "23.50"]
    assert rows["sky"] == ["sky", "-", "-"]
    assert rows["minus"] == ["minus", "runs/daformer", "+3.50"]
    assert "runs/comparison.png" in said


def test_the_picture_shows_image_label_and_each_prediction(runs: tuple[str, str]) -> None:
    demand("compare", *runs)
    pixels = np.asarray(Image.open("runs/comparison.png"))
    colors = {tuple(color) for color in pixels.reshape(-1, 3).tolist()}
    assert {DRAWN.palette[ROAD], DRAWN.palette[SKY], (90, 90, 90)} <= colors
    assert pixels.shape[0] > 2 * SIDE_PX  # both images


def test_without_common_pictures_there_is_none(runs: tuple[str, str]) -> None:
    for path in Path(runs[1], "pictures").iterdir():
        path.unlink()
    assert "no picture" in demand("compare", *runs)
    assert not Path("runs/comparison.png").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"content": "ba9876543210"},
        {"weights": "ema"},
        {"inference": {"flip": True}},
        {"iou": {"road": 20.0, "tree": None}},
    ],
    ids=["images", "weights", "inference", "classes"],
)
def test_what_was_measured_in_another_way_is_not_compared(
    runs: tuple[str, str], change: Mapping[str, object]
) -> None:
    path = Path(runs[1], "metrics.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    ended = ssr("compare", *runs)
    assert ended.code == 2
    assert "in another way than runs/daformer" in ended.err


def test_a_student_that_was_trained_since_is_not_spoken_for(runs: tuple[str, str]) -> None:
    path = Path(runs[1], "student", "config.json")
    path.write_text(path.read_text().replace("0" * 64, "1" * 64))
    assert "teacher none ?" in " ".join(demand("compare", *runs).split())
    shutil.rmtree(path.parent)  # as after `ssr evaluate --model exported --out runs/guided`
    assert "teacher none ?" in " ".join(demand("compare", *runs).split())


@pytest.mark.parametrize("recipe", [None, {}, [], {"regularizer": None}])
def test_a_card_that_does_not_tell_its_teacher_is_a_question_mark(
    runs: tuple[str, str], recipe: object
) -> None:
    path = Path(runs[1], "student", "config.json")
    card = json.loads(path.read_text())
    card["meta"]["recipe"] = recipe
    path.write_text(json.dumps(card))
    assert "teacher none ?" in " ".join(demand("compare", *runs).split())
