"""Work of a training step, as the benchmark counts it."""

import pytest

from benchmarks.step_time.table import step_macs
from tests.train.example import train_config

CLASSES, CHANNELS = 19, 256


def test_work_of_the_papers_networks_is_what_was_counted_on_the_official_code() -> None:
    config = train_config(
        batch_size=2, crop_px=512, student={"backbone": "mit_b5", "head_channels": 256}
    )
    off = config.regularizer.model_copy(update={"on": ()})
    without, with_ = (
        step_macs(each, num_classes=CLASSES, teacher_channels=CHANNELS) / 1e12
        for each in (config.model_copy(update={"regularizer": off}), config)
    )
    assert without == pytest.approx(1.9, rel=0.02)
    assert with_ - without == pytest.approx(0.68 + 0.26, rel=0.02)
