"""Each run of a stage notes what it cost."""

from pathlib import Path

import pytest

from pipeline.console import Cost, cost_of, noted, peak_bytes


def run(
    folder: Path | None, first: int, last: int, *, fails: bool = False, stage: str = "train"
) -> None:
    with noted(stage, "steps", folder) as report:
        for done in range(first, last + 1):
            report(done, 100, "steps")
        if fails:
            raise KeyboardInterrupt


def cost(folder: Path, stage: str = "train") -> Cost:
    found = cost_of(stage, folder)
    assert found is not None
    return found


def test_a_run_notes_units_time_and_memory(tmp_path: Path) -> None:
    run(tmp_path, 1, 10)
    found = cost(tmp_path)
    assert (found.units, found.finished) == (10, True)
    assert found.seconds >= 0
    assert found.peak_bytes == pytest.approx(peak_bytes(), rel=0.2)
    assert "torch" in found.versions


def test_the_last_run_that_did_something_counts(tmp_path: Path) -> None:
    run(tmp_path, 1, 50)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 1, 6, fails=True)
    run(tmp_path, 1, 0)  # nothing is left to do
    assert (cost(tmp_path).units, cost(tmp_path).finished) == (6, False)
