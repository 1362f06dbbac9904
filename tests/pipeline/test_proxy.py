"""Scores without target labels are correlated with the truth, and measured once."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import proxy
from benchmarks.proxy import Values, cost, kendall, spearman
from stages.student.saved import save_student
from stages.student.student import build_student
from tests.evaluate.models import student_config
from tests.restyle.test_stage import MIXER, config, restyle
from tests.train.world import World, build_world


def values(*given: float) -> Values:
    return np.array(given)


@pytest.mark.parametrize(
    ("score", "truth", "rho", "tau", "lost"),
    [
        (values(1, 2, 3), values(5, 7, 90), 1.0, 1.0, 0.0),
        (values(3, 2, 1), values(5, 7, 90), -1.0, -1.0, 85.0),
        (values(1, 2, 3, 4, 5), values(2, 1, 4, 3, 5), 0.8, 0.6, 0.0),
        (values(1, 2, 2, 3), values(1, 2, 3, 4), 0.9**0.5, (5 / 6) ** 0.5, 0.0),  # with a tie
    ],
)
def test_correlations_are_those_of_the_textbook(
    score: Values, truth: Values, rho: float, tau: float, lost: float
) -> None:
    assert spearman(score, truth) == pytest.approx(rho)
    assert kendall(score, truth) == pytest.approx(tau)
    assert cost(score, truth) == lost


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = build_world(tmp_path_factory.mktemp("proxy") / "data")
    world.prepare(labelled=1)
    world.label()
    return world


def test_students_are_measured_once_and_equal_ones_count_once(
    place: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = SimpleNamespace(prepare=SimpleNamespace(roots=place.roots))
    monkeypatch.setattr(proxy, "load_params", lambda *_: params)
    meta = {"classes": list(place.manifest.classes.names), "palette": [[0, 0, 0]] * 11}
    folders = []
    for name, seed in (("one", 1), ("two", 2), ("three", 3), ("again", 1)):
        folders.append(tmp_path / "runs" / name / "student")
        student = build_student(student_config(head_channels=8), num_classes=11, seed=seed)
        save_student(student, folders[-1], config=student_config(head_channels=8), meta=meta)
        (folders[-1].parent / "result.json").write_text(json.dumps({"miou": 10.0 * seed}))
    restyled = place.workspace.restyled
    restyle(place, config(mixer={**MIXER, "strength": 0.0}))

    def call(students: Sequence[Path]) -> list[str]:
        options = ["--out", str(tmp_path), "--restyled", f"same={restyled}", "--images", "3"]
        monkeypatch.setattr(
            sys, "argv", ["", str(place.folder.parent), *map(str, students), *options]
        )
        proxy.main()
        return capsys.readouterr().out.splitlines()

    call(folders[:2])
    monkeypatch.setattr(proxy, "predict_image", None)
    assert any("2 students" in line for line in call([folders[0], folders[1], folders[3]]))
    with pytest.raises(TypeError, match="not callable"):
        call(folders)
    for scores in json.loads((tmp_path / "scores.json").read_text()).values():
        assert all(0 <= value <= 100 for value in scores.values())
    rows = [line.split(" | ") for line in call(folders[:2])]
    assert rows[0][1] == "truth 10.00"
    assert rows[0][2].split()[-1] == rows[0][3].split()[-1]  # shown as it is
