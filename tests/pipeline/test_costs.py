"""Each run of a stage notes what it cost."""

from pathlib import Path

import pytest

from pipeline.costs import COSTS, Cost, cost_of, noted, peak_bytes


def silent(done: int, total: int, what: str) -> None:
    pass


def run(
    folder: Path | None, first: int, last: int, *, fails: bool = False, stage: str = "train"
) -> None:
    with noted(stage, folder, silent) as report:
        for done in range(first, last + 1):
            report(done, 100, "steps")
        if fails:
            raise KeyboardInterrupt


def test_a_run_notes_units_time_and_memory(tmp_path: Path) -> None:
    run(tmp_path, 1, 10)
    cost = cost_of("train", tmp_path)
    assert cost is not None
    assert (cost.units, cost.first, cost.finished) == (10, 0, True)
    assert cost.seconds >= 0
    assert cost.peak_bytes == pytest.approx(peak_bytes(), rel=0.2)
    assert "torch" in cost.versions


def test_progress_is_passed_on(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    with noted("embed", tmp_path, lambda *told: seen.append(told)) as report:
        report(0, 2, "source")
        report(2, 2, "source")
        report(1, 3, "target")  # another piece of work counts anew
    assert seen == [(0, 2, "source"), (2, 2, "source"), (1, 3, "target")]
    cost = cost_of("embed", tmp_path)
    assert cost is not None
    assert (cost.units, cost.first) == (3, 0)


def test_a_resumed_run_adds_to_the_interrupted_one(tmp_path: Path) -> None:
    run(tmp_path, 1, 50)  # an older run
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 1, 6, fails=True)
    run(tmp_path, 5, 10)  # from a checkpoint at 4
    cost = cost_of("train", tmp_path)
    assert cost is not None
    assert (cost.units, cost.first, cost.finished) == (12, 0, True)


def test_an_interrupted_embed_adds_to_the_one_that_goes_on(tmp_path: Path) -> None:
    """It counts what is left to do, from 1 again."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 1, 10, fails=True, stage="embed")
    run(tmp_path, 1, 6, stage="embed")
    cost = cost_of("embed", tmp_path)
    assert cost is not None
    assert (cost.units, cost.finished) == (16, True)


def test_what_was_killed_left_no_note_and_is_not_invented(tmp_path: Path) -> None:
    run(tmp_path, 1, 50)
    run(tmp_path, 5, 10)
    cost = cost_of("train", tmp_path)
    assert cost is not None
    assert (cost.units, cost.first) == (6, 4)


def test_a_run_that_did_nothing_does_not_hide_the_one_that_did(tmp_path: Path) -> None:
    run(tmp_path, 1, 10)
    run(tmp_path, 1, 0)
    cost = cost_of("train", tmp_path)
    assert cost is not None
    assert cost.units == 10


def test_notes_do_not_fail_a_stage(tmp_path: Path) -> None:
    run(None, 1, 2)
    run(tmp_path / "absent", 1, 2)
    (tmp_path / COSTS).mkdir()  # cannot be written
    run(tmp_path, 1, 2)


def test_torn_lines_and_other_stages_are_passed_over(tmp_path: Path) -> None:
    run(tmp_path, 1, 3)
    with (tmp_path / COSTS).open("a") as file:
        file.write('{"stage": "tra\n')
        file.write(_a_cost("embed").model_dump_json() + "\n")
    cost = cost_of("train", tmp_path)
    assert cost is not None
    assert cost.units == 3
    assert cost_of("prepare", tmp_path) is None


def _a_cost(stage: str) -> Cost:
    return Cost(
        stage=stage,
        ended="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        peak_bytes=None,
        gpu_peak_bytes=None,
        units=7,
        first=0,
        finished=True,
        versions={},
    )
