"""The comparison of arms is one command; a second call only reads what the first one did."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.runs import Result
from benchmarks.tables import arm_table, class_table
from stages.student.student import load_student
from tests.pipeline.workplace import REPOSITORY, add_photo, times

TINY = (
    "embed.teacher.weights=random",
    "train.crop_px=64",
    "train.batch_size=1",
    "train.student.head_channels=8",
    "train.rare_class_sampling=null",
)
STEPS = ("--seeds=1", "--warm-steps=2", "--budget-steps=2", "--jobs=1")


def result(arm: str, seed: int, miou: float, *, cpu_s: float | None, car: float | None) -> Result:
    iou = {"road": 50.0 + seed, "car": car}
    return {
        "arm": arm,
        "seed": seed,
        "iterations": 7,
        "cpu_s": cpu_s,
        "miou": miou,
        "iou": iou,
        "others": {},
        "commit": None,
    }


RESULTS = (
    result("warm-start", 0, 20.0, cpu_s=30.0, car=10.0),
    result("warm-start", 1, 22.0, cpu_s=None, car=11.0),
    result("daformer", 0, 26.0, cpu_s=None, car=12.0),
    result("daformer", 1, 30.0, cpu_s=None, car=13.0),
    result("ssr", 0, 27.0, cpu_s=120.0, car=None),
    result("ssr", 1, 28.0, cpu_s=60.0, car=15.0),
)


def test_differences_are_paired_by_seed_and_interrupted_times_are_left_out() -> None:
    assert arm_table(RESULTS, "daformer").splitlines()[2:] == [
        "| warm-start | 7 | 0.5 | 20.00 | 22.00 | 21.00 ± 1.41 | -7.00 (-19.71 to +5.71) |",
        "| daformer | 7 |  | 26.00 | 30.00 | 28.00 ± 2.83 |  |",
        "| ssr | 7 | 1.5 | 27.00 | 28.00 | 27.50 ± 0.71 | -0.50 (-19.56 to +18.56) |",
    ]


def test_the_published_tables_are_of_the_published_results() -> None:
    benchmarks = REPOSITORY / "benchmarks"
    results = json.loads((benchmarks / "camvid.json").read_text())
    for table in (arm_table(results, "daformer"), class_table(results)):
        assert table in (benchmarks / "README.md").read_text()


def compare(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    overrides = [part for value in TINY for part in ("-S", value)]
    where = [str(folder / "camvid"), "--out", str(folder / "out")]
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", *where, *overrides, *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder after a comparison of two arms, and what it printed."""
    folder = tmp_path_factory.mktemp("compare")
    for index, split in enumerate(("day_train", "day_train", "day_val", "dusk_train", "dusk_val")):
        add_photo(folder / "camvid" / split, index, "dusk" if "dusk" in split else "day")
    untrained = ("-S", "embed.teacher.weights=random")
    done = compare(folder, *STEPS, *untrained, "--arms", "daformer", "ssr-mic")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_the_tables_say_what_was_measured(compared: tuple[Path, str]) -> None:
    folder, said = compared
    assert "UNTRAINED" in said
    rows = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("|")]
    plan = json.loads((folder / "out" / "plan.json").read_text())
    assert [row[0] for row in rows[2:5]] == ["warm-start", "daformer", "ssr-mic"]
    steps = [2, 2, plan["iterations"]["ssr-mic"]]
    assert [int(row[1]) for row in rows[2:5]] == steps
    for row in rows[2:5]:
        metrics = json.loads((folder / f"out/runs/seed0/{row[0]}/metrics.json").read_text())
        assert row[3] == f"{metrics['miou']:.2f}"
        assert (metrics["domain"], metrics["split"]) == ("target", "val")
    assert rows[5] == ["class", "warm-start", "daformer", "ssr-mic"]


@pytest.mark.slow
def test_the_plan_gives_every_arm_the_same_cpu_time(compared: tuple[Path, str]) -> None:
    plan = json.loads((compared[0] / "out" / "plan.json").read_text())
    budget = 2 * plan["cpu_s_per_step"]["daformer"]
    for arm, each in plan["cpu_s_per_step"].items():
        steps = plan["iterations"][arm]
        assert steps == 1 or abs(steps * each - budget) <= each / 2


@pytest.mark.slow
def test_arms_start_from_the_warm_student_and_differ_as_they_say(
    compared: tuple[Path, str],
) -> None:
    runs = compared[0] / "out" / "runs" / "seed0"
    recipes = {
        arm: load_student(runs / arm / "student")[1]["recipe"]
        for arm in ("warm-start", "daformer", "ssr-mic")
    }
    assert recipes["warm-start"]["self_training"] is None
    assert recipes["daformer"]["init"] == recipes["ssr-mic"]["init"] == "student"
    assert recipes["daformer"]["regularizer"]["on"] == []
    assert recipes["ssr-mic"]["masking"] == {"block_px": 32, "ratio": 0.7, "weight": 1.0}


@pytest.mark.slow
def test_a_second_call_trains_and_measures_nothing_again(compared: tuple[Path, str]) -> None:
    folder, said = compared
    before = times(folder / "out" / "runs"), times(folder / "out" / "data" / "features")
    plan = (folder / "out" / "plan.json").read_bytes()
    untrained = ("-S", "embed.teacher.weights=random")
    done = compare(folder, *STEPS, *untrained, "--arms", "daformer", "ssr-mic")
    assert done.stdout == said, done.stderr
    assert (times(folder / "out" / "runs"), times(folder / "out" / "data" / "features")) == before
    assert (folder / "out" / "plan.json").read_bytes() == plan


@pytest.mark.slow
def test_another_budget_is_another_comparison(compared: tuple[Path, str]) -> None:
    done = compare(compared[0], *STEPS, "--budget-steps=3")
    assert done.returncode == 2
    assert "plan.json was made with other steps" in done.stderr
