"""Files of TensorBoard hold the rows of ours."""

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stages.train.monitor import Curves, rows_for
from store.errors import ConfigError
from tests.pipeline.workplace import demand


def steps(folder: Path, metric: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(scalar.step, scalar.value) for scalar in events.Scalars(metric)]


def curves(rows: int) -> Curves:
    made = Curves()
    for number in range(1, rows + 1):
        made.rows.append({"iteration": 10 * number, "lr": 0.5, "clean": 1 / number})
        made.health.append({"iteration": 10 * number, "residual_0": 0.25 * number})
    made.validation.append({"iteration": 15, "miou": 12.5})
    return made


def test_every_row_is_passed_on_once_also_by_a_run_that_resumes_earlier(tmp_path: Path) -> None:
    show = rows_for(["tensorboard"], tmp_path)
    assert list(tmp_path.iterdir()) == []  # the folder may yet turn out to be another run's
    for count in (1, 2, 2, 5):
        show(curves(count))
    assert steps(tmp_path, "train/clean")[:2] == [(10, 1), (20, 0.5)]
    rows_for(["tensorboard"], tmp_path)(curves(2))
    assert steps(tmp_path, "train/clean") == [(10, 1), (20, 0.5)]
    assert steps(tmp_path, "health/residual_0") == [(10, 0.25), (20, 0.5)]
    assert steps(tmp_path, "validation/miou") == [(15, 12.5)]


def test_training_logs_there_where_that_is_asked_for(workplace: Path) -> None:
    for command in ("prepare", "embed"):
        demand(command)
    demand("train", "-S", "train.log_to=[tensorboard]")
    assert [step for step, _ in steps(workplace / "runs", "train/clean")] == [2, 4]
    assert [step for step, _ in steps(workplace / "runs", "validation/miou")] == [2, 4]


def test_without_the_package_a_line_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ConfigError, match=r"train.log_to: .*pip install -e '.\[tensorboard\]'"):
        rows_for(["tensorboard"], tmp_path)
