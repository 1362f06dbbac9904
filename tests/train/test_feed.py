"""An experiment may feed other teacher features than the store's; such runs are other runs."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stages.student.saved import load_student
from stages.train.crops import Batch, Sample
from stages.train.feed import STORED, Feed
from stages.train.step import Mixed, mix_stored
from store.errors import ConfigError
from tests.train.example import train_config
from tests.train.world import World


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


def mute(mixed: Mixed, batch: Batch) -> Mapping[str, Tensor]:
    return {level: torch.zeros_like(each) for level, each in batch.source_features.items()}


FEEDS = {
    "stored": STORED,
    "silent samples": Feed("silent samples", Silenced, mix_stored),
    "silent mixtures": Feed("silent mixtures", lambda crops: crops, mute),
}


def trained(world: World, out: Path, feed: Feed) -> tuple[Tensor, int | None]:
    result = world.train(train_config(), out, feed=feed)
    student, _ = load_student(result.student)
    weights = torch.cat([each.detach().flatten() for each in student.parameters()])
    return weights, result.fit.resumed_from


def test_samples_and_mixtures_are_those_of_the_feed(world: World, tmp_path: Path) -> None:
    weights = {name: trained(world, tmp_path / name, feed)[0] for name, feed in FEEDS.items()}
    student, _ = load_student(world.run(tmp_path / "plain").student)
    plain = torch.cat([each.detach().flatten() for each in student.parameters()])
    assert torch.equal(plain, weights["stored"])
    assert not any(torch.equal(one, other) for one, other in combinations(weights.values(), 2))


def test_a_run_is_not_resumed_with_another_feed(world: World, tmp_path: Path) -> None:
    trained(world, tmp_path, STORED)
    assert trained(world, tmp_path, STORED)[1] is not None
    with pytest.raises(ConfigError, match=r"another run \(other feed\)"):
        trained(world, tmp_path, FEEDS["silent samples"])
