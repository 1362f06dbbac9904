"""The comparison of arms is one command; a second call only reads what the first one did."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.tables import arm_table, class_table
from tests.pipeline.workplace import REPOSITORY, add_photo, times

TINY = (
    "embed.teacher.weights=random",
    "train.crop_px=64",
    "train.batch_size=1",
    "train.student.head_channels=8",
    "train.rare_class_sampling=null",
)
RESTYLE = "{mixer: {kind: color, strength: 1}, styles: target, draws: 1, splits: [train], seed: 0}"
RESTYLED = ("train.restyled={probability: 1, features: clean}", f"restyle={RESTYLE}")
ARMS = ("--arms", "daformer", "ssr-mic", "--variant", "dusky", "source-only", *RESTYLED)
STEPS = ("--seeds=1", "--warm-steps=2", "--budget-steps=2", "--jobs=1")


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
    done = compare(folder, *STEPS, *ARMS)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_a_second_call_trains_and_measures_nothing_again(compared: tuple[Path, str]) -> None:
    folder, said = compared
    before = times(folder / "out" / "runs"), times(folder / "out" / "data" / "features")
    plan = (folder / "out" / "plan.json").read_bytes()
    done = compare(folder, *STEPS, *ARMS)
    assert done.stdout == said, done.stderr
    assert (times(folder / "out" / "runs"), times(folder / "out" / "data" / "features")) == before
    assert (folder / "out" / "plan.json").read_bytes() == plan


@pytest.mark.slow
def test_another_budget_is_another_comparison(compared: tuple[Path, str]) -> None:
    done = compare(compared[0], *STEPS, "--budget-steps=3")
    assert done.returncode == 2
    assert "plan.json was made with other steps" in done.stderr


@pytest.mark.slow
def test_a_variant_trains_on_its_own_images(compared: tuple[Path, str]) -> None:
    folder, said = compared
    assert "| dusky | " in said
    assert list((folder / "out" / "data-dusky" / "restyled").rglob("*.png"))
    changed = (*ARMS[:-1], RESTYLED[1].replace("strength: 1", "strength: 0.5"))
    done = compare(folder, *STEPS, *changed)
    assert (done.returncode, "was made with other values" in done.stderr) == (2, True)


@pytest.mark.parametrize("given", [("alone",), ("x", "nope"), ("../x", "ssr")])
def test_a_variant_is_a_name_and_an_arm(tmp_path: Path, given: tuple[str, ...]) -> None:
    add_photo(tmp_path / "camvid" / "day_train", 0, "day")
    done = compare(tmp_path, *STEPS, "--variant", *given)
    assert (done.returncode, "--variant takes a name" in done.stderr) == (2, True)
