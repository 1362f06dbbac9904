"""The benchmark of a step runs, and its yardstick computes what our step computes."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.step_time.data import crops_of, draw_data
from benchmarks.step_time.setting import ARMS, Setting
from benchmarks.step_time.table import step_macs
from store.spec import Level
from tests.pipeline.workplace import REPOSITORY
from tests.train.example import train_config


@pytest.mark.slow
def test_the_benchmark_of_a_step_runs_every_arm() -> None:
    size = ["--student=mit_tiny", "--sam=tiny", "--crop=64", "--repeats=2", "--warmup=0"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step_time", *size, "--threads=1", "--profile"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    error = re.search(r"gradients are (\S+) from ours", done.stdout)
    assert error is not None
    assert float(error[1]) < 1e-3
    arms, _, parts = (table_of(text) for text in done.stdout.partition("\n| s per step |"))
    assert list(arms) == list(ARMS)
    assert all(float(cells[-1]) > 0.1 for cells in arms.values())  # GB
    *columns, steps = ([float(cell or 0) for cell in parts[part]] for part in parts)
    for column, step in zip(zip(*columns, strict=True), steps, strict=True):
        assert sum(column) == pytest.approx(step, rel=0.02)  # printed with three digits
        rest = column[list(parts).index("rest")]
        assert 0 <= rest < 0.2 * step


def test_features_in_memory_do_not_travel_to_loader_processes(tmp_path: Path) -> None:
    """What is larger than a pipe's 64 KiB lets them start up one after the other."""
    setting = Setting("mit_tiny", "vit_b", 64, 2, "cpu", "float32", False, False, 1, 0)
    draw_data(tmp_path, setting)
    held, stored = (crops_of(arm, tmp_path, setting) for arm in "db")
    sent = pickle.dumps(held)
    assert len(sent) < 2**16 < (tmp_path / "source.npy").stat().st_size
    for level, values in pickle.loads(sent)[0]["source_features"].items():
        np.testing.assert_array_equal(values, stored[0]["source_features"][level])


def test_work_of_the_papers_networks_is_what_was_counted_on_the_official_code() -> None:
    config = train_config(
        batch_size=2, crop_px=512, student={"backbone": "mit_b5", "head_channels": 256}
    )
    off = config.regularizer.model_copy(update={"on": ()})
    without, with_ = (
        step_macs(each, num_classes=19, levels={"stride8": Level(8, 256)}) / 1e12
        for each in (config.model_copy(update={"regularizer": off}), config)
    )
    assert without == pytest.approx(1.9, rel=0.02)
    assert with_ - without == pytest.approx(0.68 + 0.26, rel=0.02)


def table_of(text: str) -> dict[str, list[str]]:
    """First cell of each line of a Markdown table -> the others; without its head."""
    rows = re.findall(r"^\| ([^|]+) \|(.*)\|$", text, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}
