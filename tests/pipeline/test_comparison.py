"""Evaluated runs side by side: scores on the same images."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from stages.prepare.datasets.drawn import DRAWN
from stages.student.saved import Card
from tests.pipeline.mistakes import assert_refused
from tests.pipeline.workplace import demand
from tests.train.example import train_config


def evaluated(folder: Path, *, miou: float, regularizer: Mapping[str, object]) -> None:
    """Leave what `ssr evaluate` does: scores, and the card of the student."""
    scores = {"images": 2, "content": "0123456789ab", "miou": miou, "accuracy": 50.0}
    scores["iou"] = {"road": miou, "sky": None}
    about = {"student": "0" * 12, "domain": "target", "split": "val"}
    (folder / "student").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({**scores, **about}))
    card = Card(
        format="ssr-student/1",
        student=train_config().student,
        num_classes=len(DRAWN),
        weights_sha256="0" * 64,
        meta={"recipe": {"regularizer": regularizer}},
    )
    (folder / "student" / "config.json").write_text(card.model_dump_json())


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.chdir(tmp_path)
    off = {"kind": "ssr", "on": []}
    guided = {"kind": "guided", "on": ["source", "mixed"]}
    evaluated(Path("runs/daformer"), miou=20.0, regularizer=off)
    evaluated(Path("runs/guided"), miou=23.5, regularizer=guided)
    return "runs/daformer", "runs/guided"


def test_it_says_what_the_second_run_gains_and_who_had_a_teacher(runs: tuple[str, str]) -> None:
    said = demand("compare", *runs)
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.strip()}
    assert rows["teacher"] == ["teacher", "none", "guided"]
    assert rows["road"] == ["road", "20.00", "23.50"]
    assert rows["sky"] == ["sky", "-", "-"]
    assert rows["minus"] == ["minus", "runs/daformer", "+3.50"]


@pytest.mark.parametrize(
    "change",
    [{"content": "ba9876543210"}, {"inference": {"flip": True}}],
    ids=["images", "inference"],
)
def test_what_was_measured_in_another_way_is_not_compared(
    runs: tuple[str, str], change: Mapping[str, object]
) -> None:
    path = Path(runs[1], "metrics.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert_refused(f"compare {' '.join(runs)}", "in another way than runs/daformer")


def test_a_student_that_was_trained_since_is_not_spoken_for(runs: tuple[str, str]) -> None:
    path = Path(runs[1], "student", "config.json")
    path.write_text(path.read_text().replace("0" * 64, "1" * 64))
    assert "teacher none ?" in " ".join(demand("compare", *runs).split())
    shutil.rmtree(path.parent)  # as after `ssr evaluate --model exported --out runs/guided`
    assert "teacher none ?" in " ".join(demand("compare", *runs).split())
