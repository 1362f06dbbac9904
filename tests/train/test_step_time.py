"""The benchmark of a step runs, and its yardstick computes what our step computes."""

import re
import subprocess
import sys

import pytest

from benchmarks.step_time.setting import ARMS
from tests.pipeline.workplace import REPOSITORY


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


def table_of(text: str) -> dict[str, list[str]]:
    """First cell of each line of a Markdown table -> the others; without its head."""
    rows = re.findall(r"^\| ([^|]+) \|(.*)\|$", text, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}
