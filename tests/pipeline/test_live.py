"""Files of DVCLive and TensorBoard hold the rows of ours."""

import csv
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stages.train.monitor import Curves, rows_for
from store.errors import ConfigError
from tests.pipeline.workplace import demand

TOOLS = ("dvclive", "tensorboard")


@pytest.fixture(autouse=True)
def _no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVCLive opens the git repository around it and leaves the packs open, which would warn."""
    monkeypatch.chdir(tmp_path)


def steps(folder: Path, metric: str, tool: str = "dvclive") -> list[tuple[int, float]]:
    if tool == "tensorboard":
        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        return [(scalar.step, scalar.value) for scalar in events.Scalars(metric)]
    path = folder / "live" / "plots" / "metrics" / f"{metric}.tsv"
    rows = csv.DictReader(path.read_text().splitlines(), delimiter="\t")
    return [(int(row["step"]), float(row[metric.rpartition("/")[2]])) for row in rows]


def curves(rows: int) -> Curves:
    made = Curves()
    for number in range(1, rows + 1):
        made.rows.append({"iteration": 10 * number, "lr": 0.5, "clean": 1 / number})
        made.health.append({"iteration": 10 * number, "residual_0": 0.25 * number})
    made.validation.append({"iteration": 15, "miou": 12.5})
    return made


@pytest.mark.parametrize("tool", TOOLS)
def test_every_row_is_passed_on_once(tmp_path: Path, tool: str) -> None:
    show = rows_for([tool], tmp_path)
    assert list(tmp_path.iterdir()) == []  # the folder may yet turn out to be another run's
    for count in (1, 2, 2):
        show(curves(count))
    assert steps(tmp_path, "train/clean", tool) == [(10, 1), (20, 0.5)]
    assert steps(tmp_path, "health/residual_0", tool) == [(10, 0.25), (20, 0.5)]
    assert steps(tmp_path, "validation/miou", tool) == [(15, 12.5)]


def test_training_logs_to_the_tools_that_are_asked_for(workplace: Path) -> None:
    for command in ("prepare", "embed"):
        demand(command)
    demand("train", "-S", "train.log_to=[dvclive, tensorboard]")
    for tool in TOOLS:
        assert [step for step, _ in steps(workplace / "runs", "train/clean", tool)] == [2, 4]
        assert [step for step, _ in steps(workplace / "runs", "validation/miou", tool)] == [2, 4]
    assert not (workplace / "dvc.yaml").exists()


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    monkeypatch.setitem(sys.modules, tool, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ConfigError, match=rf"train.log_to: .*pip install -e '.\[{tool}\]'"):
        rows_for([tool], tmp_path)
