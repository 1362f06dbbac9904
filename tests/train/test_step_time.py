"""The benchmark of a step runs, and its yardstick computes what our step computes."""

import re
import subprocess
import sys

import pytest

from tests.pipeline.workplace import REPOSITORY


@pytest.mark.slow
def test_the_benchmark_of_a_step_runs_every_arm() -> None:
    size = ["--student=mit_tiny", "--sam=tiny", "--crop=64", "--repeats=1", "--warmup=0"]
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
    rows = re.findall(r"^\| ([a-z ]+) \| .* \| (\d+\.\d+) \|$", done.stdout, re.MULTILINE)
    assert [name for name, _ in rows if len(name) == 1 or "fused" in name] == [
        "a",
        "b",
        "c",
        "c fused",
        "d",
        "p",
    ]
