import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stages.train.config import TrainConfig
from stages.train.crops import Batch, Sample
from stages.train.state import learning_rate
from stages.train.step import STORED, Feed, mix_stored
from store.errors import ConfigError, TrainingError
from tests.train.example import EFFICIENTNET_LITE, HRDA, MASKING, SEMASK, train_config
from tests.train.world import World, assert_same, results, silent

NOISE: dict[str, Any] = {"drop_path": 0.3, "dropout": 0.3}
TWENTY: dict[str, Any] = {
    "iterations": 20,
    "checkpoint_every": 10,
    "log_every": 4,  # the interruption falls into an unfinished row
    "student": NOISE,
    "masking": MASKING,
    "rare_class_sampling": {"temperature": 0.1, "min_pixels": 20, "min_crop_ratio": 0.5},
}


@pytest.mark.parametrize(
    ("start", "workers", "student"),
    [
        pytest.param(0, 2, {}, id="with loader processes"),
        pytest.param(12, 0, {}, id="before self-training"),
        pytest.param(0, 0, {"semask": SEMASK, "hrda": HRDA}, id="SeMask and HRDA"),
        pytest.param(0, 0, EFFICIENTNET_LITE, id="EfficientNet-Lite", marks=pytest.mark.slow),
    ],
)
def test_ten_steps_and_ten_more_are_twenty_steps_bit_for_bit(
    world: World, tmp_path: Path, start: int, workers: int, student: dict[str, Any]
) -> None:
    changes = {**TWENTY, "self_training": {"start": start}, "student": NOISE | student}
    cheaper = {"workers": workers, "prefetch": 3, "activation_checkpointing": True}
    found = world.resumes(
        train_config(**changes),
        tmp_path,
        stop=13,
        at=10,
        cheaper=train_config(**changes, **cheaper),
    )
    assert found["checkpoint"]["iteration"] == 20
    parts = {"student", "ema", "regularizer", "optimizer", "curves"}
    assert found["checkpoint"].keys() == parts | {"format", "fingerprint", "iteration"}


def test_a_finished_run_is_not_trained_again(world: World, tmp_path: Path) -> None:
    settings = {"iterations": 3, "checkpoint_every": 2}  # the last checkpoint is out of turn
    first = world.run(tmp_path, silent, **settings)
    before = results(tmp_path)
    (tmp_path / "curves.csv").unlink()
    calls = []
    again = world.run(tmp_path, lambda *call: calls.append(call), **settings)
    assert again.resumed_from == 3
    assert again.curves.rows[-1] == first.curves.rows[-1]
    assert not calls
    assert_same(results(tmp_path), before)  # with the curves that were lost


def test_curves_have_a_row_for_each_interval_and_the_last_iteration(
    world: World, tmp_path: Path
) -> None:
    config = train_config(
        iterations=5, log_every=2, self_training={"start": 2}, regularizer={"on": ["source"]}
    )
    each = train_config(**config.model_dump() | {"log_every": 1})
    last = world.train(config, tmp_path / "pairs").curves.rows[-1]
    world.train(each, tmp_path / "each")
    pairs, single = (rows(tmp_path / name) for name in ("pairs", "each"))

    assert [row["iteration"] for row in pairs] == ["2", "4", "5"]
    for row in pairs:
        lr = learning_rate(int(row["iteration"]) - 1, config.optimizer, config.iterations)
        assert float(row["lr"]) == pytest.approx(lr, rel=1e-5)
    for name in ("clean", "enhanced_source"):
        values = [float(row[name]) for row in single]
        means = [(values[0] + values[1]) / 2, (values[2] + values[3]) / 2, values[4]]
        assert [float(row[name]) for row in pairs] == pytest.approx(means, rel=1e-4)
    # self-training begins with the third iteration, the rest is not part of this arm
    assert [bool(row["mix"]) for row in pairs] == [False, True, True]
    assert [bool(row["confidence"]) for row in pairs] == [False, True, True]
    for name in ("enhanced_mix", "masked", "feature_distance"):
        assert not any(row[name] for row in pairs)
    assert last["iteration"] == 5
    assert f"{last['clean']:.6g}" == pairs[-1]["clean"]


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "curves.csv").read_text().splitlines()))


def exploding() -> TrainConfig:
    """A first update after which no loss can be finite."""
    config = train_config(iterations=4, optimizer={"warmup_iterations": 0}, log_every=1, workers=0)
    optimizer = config.optimizer.model_copy(update={"lr": 1e30})  # beyond what params may say
    return config.model_copy(update={"optimizer": optimizer})


def test_a_loss_that_is_not_finite_stops_before_the_update(world: World, tmp_path: Path) -> None:
    names, before = ("checkpoint.pt", "curves.csv"), dict[str, bytes]()

    def remember(done: int, total: int, what: str) -> None:
        before.update({name: (tmp_path / name).read_bytes() for name in names})

    with pytest.raises(TrainingError) as caught:
        world.train(exploding(), tmp_path, remember)
    message = str(caught.value)
    assert message.startswith("iteration 1: a loss is not finite (clean ")
    assert "weights were not updated" in message
    assert "train.optimizer.lr" in message
    assert "\n" not in message
    assert before == {name: (tmp_path / name).read_bytes() for name in names}
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["iteration"] == 1


def test_a_loss_that_is_not_finite_is_told_at_the_next_row_and_its_weights_are_never_saved(
    world: World, tmp_path: Path
) -> None:
    changes = {"log_every": 3, "checkpoint_every": 2, "iterations": 6}
    config = exploding().model_copy(update=changes)
    calls = []
    with pytest.raises(TrainingError, match="iteration 1: "):
        world.train(config, tmp_path, lambda *call: calls.append(call))
    assert [done for done, *_ in calls] == [1]  # the checkpoint of the second iteration noticed
    assert not (tmp_path / "checkpoint.pt").exists()
    assert not (tmp_path / "curves.csv").exists()


class Silenced(Dataset[Sample]):
    """Samples of which the teacher says nothing."""

    def __init__(self, crops: Dataset[Sample]) -> None:
        self._crops = crops

    def __getitem__(self, index: int) -> Sample:
        sample = self._crops[index]
        for features in (sample["source_features"], sample["target_features"]):
            for tokens in features.values():
                tokens[:] = 0
        return sample


def mute(mask: Tensor, mixed: Tensor, batch: Batch) -> Mapping[str, Tensor]:
    return {level: torch.zeros_like(each) for level, each in batch.source_features.items()}


FEEDS = {
    "stored": STORED,
    "silent samples": Feed("silent samples", Silenced, mix_stored),
    "silent mixtures": Feed("silent mixtures", lambda crops: crops, mute),
}


def test_samples_and_mixtures_are_those_of_the_feed_which_is_part_of_the_run(
    world: World, tmp_path: Path
) -> None:
    weights: dict[str, bytes] = {}
    for name, feed in FEEDS.items():
        world.train(train_config(), tmp_path / name, feed=feed)
        weights[name] = results(tmp_path / name)["student/model.safetensors"]
    world.run(tmp_path / "plain")
    assert results(tmp_path / "plain")["student/model.safetensors"] == weights["stored"]
    assert len({*weights.values()}) == 3
    with pytest.raises(ConfigError, match=r"another run \(other feed\)"):
        world.train(train_config(), tmp_path / "plain", feed=FEEDS["silent samples"])
