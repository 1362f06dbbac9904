"""Timing the teacher."""

import pytest

from stages.embed.config import EmbedConfig
from stages.embed.cost import tiles_per_second
from tests.embed.world import changed


def test_calibration_times_the_architecture_without_its_weights(embed_config: EmbedConfig) -> None:
    config = changed(embed_config, weights="not/there.pth", batch_tiles=2)
    rate, device = tiles_per_second(config, least_s=0.05)
    assert 1 < rate < 1e5
    assert "this machine" in device


def test_calibration_ends_with_whole_batches_after_the_time_given(
    embed_config: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 0.5, 1.0])  # start, then after each of no, one and two batches
    monkeypatch.setattr("stages.embed.cost.perf_counter", lambda: next(clock))
    rate, _ = tiles_per_second(embed_config.model_copy(update={"batch_tiles": 3}), least_s=1.0)
    assert rate == 6.0
