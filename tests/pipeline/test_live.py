"""Files of DVCLive and TensorBoard hold the rows of ours."""

import csv
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stages.train.monitor import rows_for
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
