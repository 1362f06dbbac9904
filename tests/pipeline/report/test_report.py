"""The report says what the files of a run say, stands alone, and misses nothing silently."""

import html
import json
import re
import shutil
from pathlib import Path

import pytest

from pipeline.report import REPORT
from tests.conftest import HOSTILE
from tests.pipeline.workplace import (
    SMALLEST,
    demand,
    enter_copy,
    made,
    ssr,
)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, params = tmp_path_factory.mktemp("reported"), {"embed.splits": ["train", "val"]}
    commands = ("prepare", "embed", "train", "evaluate", "report")
    return made(folder, {**SMALLEST, **params}, *commands)


@pytest.fixture
def place(reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of that, free to be spoilt."""
    return enter_copy(reported, tmp_path, monkeypatch)


def html_of(folder: Path) -> str:
    return (folder / "runs" / REPORT).read_text()


def text_of(folder: Path) -> str:
    """The text that a browser would show."""
    page = re.sub(r"<style>.*?</style>", "", html_of(folder), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def again(folder: Path) -> str:
    demand("report")
    return text_of(folder)


def test_it_is_one_file_that_fetches_nothing(reported: Path) -> None:
    page = html_of(reported)
    named = re.findall(r'(?:src|href|data|action|poster|srcset)="([^"]*)', page)
    assert len(named) > 5
    assert all(place.startswith(("#", "data:image/")) for place in named)
    for word in ("<script", "url(", "@import"):
        assert word not in page
    assert "default-src 'none'" in page


def test_scores_are_those_of_the_evaluation(reported: Path) -> None:
    metrics = json.loads((reported / "runs" / "metrics.json").read_text())
    text = text_of(reported)
    assert f"mean IoU, target/val {metrics['miou']:.2f} %" in text
    assert f"pixel accuracy {metrics['accuracy']:.2f}" in text
    for name, iou in metrics["iou"].items():
        assert f"{name} {'–' if iou is None else format(iou, '.2f')}" in text  # noqa: RUF001


def test_it_says_what_was_run_and_from_which_teacher(reported: Path) -> None:
    text = text_of(reported)
    card = json.loads((reported / "runs" / "student" / "config.json").read_text())
    index = json.loads((reported / "data" / "index.json").read_text())
    assert "UNTRAINED TEACHER: its weights are random; expect no gain from SSR." in text
    assert "drawn day to drawn dusk" in text
    assert card["weights_sha256"][:12] in text
    assert card["meta"]["run"] in text
    assert index["stores"]["source"]["fingerprint"][:8] in text
    assert "torch" in text
    assert "crop_px: 64" in text  # the params file is quoted
    for stage, done in (("prepare", ""), ("embed", "16 images"), ("train", "4 steps")):
        assert stage in text
        assert done in text
    for title in ("losses", "mean IoU while training", "attention entropy", "gradient norm"):
        assert title in text.split("Training")[-1]


def test_parts_that_are_not_made_yet_say_what_makes_them(place: Path) -> None:
    shutil.rmtree(place / "runs")
    (place / "data" / "index.json").unlink()
    text = again(place)
    assert "run `ssr embed`" in text
    assert "run `ssr train`" in text
    assert "there is no evaluation yet; run `dvc repro`, or `ssr evaluate --out runs`" in text
    assert "source train 6 6" in text  # what is there is shown


def test_an_evaluation_of_another_student_is_told(place: Path) -> None:
    path = place / "runs" / "metrics.json"
    metrics = json.loads(path.read_text())
    told = "of another student than the present one"
    assert told not in again(place)
    path.write_text(json.dumps(metrics | {"student": "0123456789ab"}))
    assert told in again(place)
    demand("evaluate", "--weights", "ema")
    assert told not in again(place)


def test_damaged_files_cost_their_parts_alone(place: Path) -> None:
    for name in ("metrics.json", "curves.csv", "confusion.csv", "student/config.json"):
        (place / "runs" / name).write_text("iteration,\n{oops,\n")
    text = again(place)
    assert "source train 6 6" in text
    assert "curves.csv: is damaged; run `ssr train` again" in text


def test_names_of_classes_are_no_html(place: Path) -> None:
    path = place / "runs" / "metrics.json"
    scores = json.loads(path.read_text())
    path.write_text(json.dumps(scores | {"iou": dict.fromkeys(HOSTILE, 1.0)}))
    text = again(place)
    assert "<script" not in html_of(place)
    said = ssr("metrics").out
    for name in HOSTILE:
        assert name in text
        assert f"\n {name} " in said


def test_beside_another_run_it_says_whether_the_branch_reads_its_teacher(place: Path) -> None:
    shutil.copytree("runs", "other")
    columns = "iteration,miou,enhanced,wrong_teacher"
    Path("runs/validation.csv").write_text(f"{columns}\n5,30,40,37\n")
    demand("report", "--compare", "other")
    assert "with the features of other images: it reads its teacher" in text_of(place)
