"""DVCLive's files hold the rows of ours."""

import csv
import json
import sys
from pathlib import Path

import pytest

from pipeline.live import live_rows
from stages.train.tracking import Curves
from store.errors import ConfigError
from tests.pipeline.workplace import demand

pytestmark = pytest.mark.costly


@pytest.fixture(autouse=True)
def _no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVCLive opens the git repository around it and leaves the packs open, which would warn."""
    monkeypatch.chdir(tmp_path)


def steps(folder: Path, metric: str) -> list[tuple[int, float]]:
    path = folder / "plots" / "metrics" / f"{metric}.tsv"
    rows = csv.DictReader(path.read_text().splitlines(), delimiter="\t")
    return [(int(row["step"]), float(row[metric.rpartition("/")[2]])) for row in rows]


def curves(rows: int) -> Curves:
    made = Curves()
    for number in range(1, rows + 1):
        made.rows.append({"iteration": 10 * number, "lr": 0.5, "clean": 1 / number})
        made.health.append({"iteration": 10 * number, "residual_0": 0.25 * number})
    made.validation.append({"iteration": 15, "miou": 12.5})
    return made


def test_every_row_is_passed_on_once(tmp_path: Path) -> None:
    show = live_rows(tmp_path / "live")
    for count in (1, 2, 2):
        show(curves(count))
    assert steps(tmp_path / "live", "train/clean") == [(10, 1), (20, 0.5)]
    assert steps(tmp_path / "live", "health/residual_0") == [(10, 0.25), (20, 0.5)]
    assert steps(tmp_path / "live", "validation/miou") == [(15, 12.5)]
    summary = json.loads((tmp_path / "live" / "metrics.json").read_text())
    assert summary["train"]["clean"] == 0.5


def test_a_resumed_run_forgets_rows_that_its_checkpoint_does_not_know(tmp_path: Path) -> None:
    live_rows(tmp_path / "live")(curves(5))
    live_rows(tmp_path / "live")(curves(3))
    assert [step for step, _ in steps(tmp_path / "live", "train/clean")] == [10, 20, 30]


def test_training_logs_to_dvclive_when_asked(workplace: Path) -> None:
    for command in ("prepare", "embed"):
        demand(command)
    demand("train", "--live")
    assert [step for step, _ in steps(workplace / "runs/live", "train/clean")] == [2, 4]
    assert [step for step, _ in steps(workplace / "runs/live", "validation/miou")] == [2, 4]
    assert not (workplace / "dvc.yaml").exists()


def test_without_dvclive_the_flag_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dvclive", None)
    with pytest.raises(ConfigError, match=r"pip install -e '.\[live\]'"):
        live_rows(tmp_path)
