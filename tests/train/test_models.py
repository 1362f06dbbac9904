"""What training is said to need: each part that is left out makes it less."""

import pytest

from benchmarks.step_time.table import step_macs
from stages.train.models import train_memory
from store.spec import Level
from tests.train.example import train_config

CLASSES, LEVELS = 19, {"stride8": Level(8, 256)}


def total(**changes: object) -> int:
    config = train_config(**changes)
    return train_memory(config, num_classes=CLASSES, levels=LEVELS).total


def test_every_part_that_training_leaves_out_needs_no_memory() -> None:
    off: dict[str, list[str]] = {"on": []}
    assert total(regularizer=off) < total()
    assert total(regularizer=off, self_training=None) < total(regularizer=off)
    assert total(batch_size=4) > total(batch_size=2)
    assert total(batch_size=4, micro_batch_size=2) == total(batch_size=2)
    assert total(activation_checkpointing=True) < total()


def test_memory_of_a_small_student_is_what_its_networks_and_maps_need() -> None:
    student = {"backbone": "mit_b0", "head": "mlp", "head_channels": 64}
    config = train_config(crop_px=128, student=student, regularizer={"on": []}, self_training=None)
    memory = train_memory(config, num_classes=CLASSES, levels=LEVELS)
    assert memory.weights == pytest.approx(16 * 3.4e6, rel=0.02)  # MiT-B0 has 3.3 million
    assert memory.copies == 0
    # the finest map alone, 32 x 32 tokens of 32 channels, is kept some 25 times by each of 2 blocks
    assert memory.activations > config.batch_size * 4 * 32 * 32 * 32 * 25 * 2


def test_work_of_the_papers_networks_is_what_was_counted_on_the_official_code() -> None:
    config = train_config(
        batch_size=2, crop_px=512, student={"backbone": "mit_b5", "head_channels": 256}
    )
    off = config.regularizer.model_copy(update={"on": ()})
    without, with_ = (
        step_macs(each, num_classes=CLASSES, levels=LEVELS) / 1e12
        for each in (config.model_copy(update={"regularizer": off}), config)
    )
    assert without == pytest.approx(1.9, rel=0.02)
    assert with_ - without == pytest.approx(0.68 + 0.26, rel=0.02)
