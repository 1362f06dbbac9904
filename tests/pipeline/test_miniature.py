"""The miniature experiment: arms differ as they say, and tables are arithmetic."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.miniature.arms import ALL_ARMS, ARMS, BASELINE, GUIDED, folder_of
from benchmarks.miniature.place import Place
from benchmarks.miniature.plot import plot
from benchmarks.miniature.tables import difference_table
from benchmarks.runs import result_of
from benchmarks.tables import arm_table, class_table
from examples.drawn import TEACHER
from pipeline.init import write_preset
from stages.prepare.datasets.drawn import Config
from stages.student.student import load_student
from store.errors import ConfigError
from tests.pipeline.workplace import REPOSITORY, times


@pytest.fixture
def place(tmp_path: Path) -> Place:
    roots = dict.fromkeys(("source", "target"))
    write_preset("drawn", tmp_path / "params.yaml", arm="ssr", roots=roots)
    return Place(tmp_path, "val")


def test_no_scene_is_trained_on_and_scored_on(place: Place) -> None:
    """Two seeds of worlds have no scene in common, and every part of a world has its own."""
    seen = set()
    for seed in (1, 2):
        for exam in ("val", "test"):
            params = place._replace(exam=exam).params(seed, "drawn")
            seen |= {drawn(each).seed for each in (params.prepare.source, params.prepare.target)}
            (scored,) = {drawn(each).seed for each in params.evaluate.datasets.values()}
            assert scored not in seen
            seen.add(scored)
    assert len(seen) == 2 * 4


def drawn(source: object) -> Config:
    assert isinstance(source, Config)
    return source


@pytest.mark.parametrize("name", ALL_ARMS)
def test_arms_differ_in_nothing_but_what_they_say(place: Place, name: str) -> None:
    arm, run = ALL_ARMS[name], place.run(name, 1, 7)
    assert run.feed == arm.feed
    assert run.params.train.iterations == 7
    assert run.params.train.init == str(place.warm(1, 5).folder / "student")
    assert run.params.store.codec == ("int8" if arm.world == "int8" else "float16")
    assert run.params.embed.teacher.weights == (
        "random" if arm.world == "untrained" else str(TEACHER)
    )
    plain = place.run(BASELINE, 1, 7).params.train
    allowed = {"regularizer", "self_training", "masking", "optimizer"}
    allowed |= {change.removeprefix("train.").partition("=")[0] for change in arm.changes}
    assert run.params.train.model_dump(exclude=allowed) == plain.model_dump(exclude=allowed)
    assert (run.params.train.self_training is None) == (arm.recipe == "source-only")


@pytest.mark.parametrize("change", [{"arm": "SSR"}, {"feed": "shuffled"}, {"iterations": 8}])
def test_the_training_of_another_run_is_not_taken(place: Place, change: dict[str, Any]) -> None:
    run = place.run(GUIDED, 1, 7)
    run.folder.mkdir(parents=True)
    noted = {"key": run.key, "cpu_s": 1.0, "commit": None}
    (run.folder / "trained.json").write_text(json.dumps(noted))
    other = place.run(change.get("arm", GUIDED), 1, change.get("iterations", 7))
    other = other._replace(folder=run.folder, feed=change.get("feed", "stored"))
    with pytest.raises(ConfigError, match="has a training of other params or of another arm"):
        result_of(other)


def test_the_published_tables_and_plot_are_of_the_published_results() -> None:
    benchmarks = REPOSITORY / "benchmarks"
    results = json.loads((benchmarks / "miniature" / "test.json").read_text())["results"]
    published = (benchmarks / "README.md").read_text()
    for table in (arm_table(results, BASELINE), difference_table(results), class_table(results)):
        assert table in published
    assert (benchmarks / "miniature.svg").read_text() == plot(results, "test")
    milder = json.loads((benchmarks / "miniature" / "test-0.7.json").read_text())["results"]
    for table in (arm_table(milder, BASELINE), difference_table(milder)):
        assert table in published


def miniature(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    small = ["--seeds=2", "--steps=2", "--warm-steps=2", "--jobs=1"]
    for key, value in {
        **{f"prepare.{domain}.train": 3 for domain in ("source", "target")},
        **{f"evaluate.datasets.{style}.val": 1 for style in ("dusk", "fog", "night")},
        "train.rare_class_sampling": "null",
    }.items():
        small += ["-S", f"{key}={value}"]
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.miniature", "--out", str(folder), *small, *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_all_arms_run_and_a_second_call_trains_and_measures_nothing_again(tmp_path: Path) -> None:
    first = miniature(tmp_path)
    assert first.returncode == 0, first.stderr
    noted = json.loads((tmp_path / "val.json").read_text())
    assert {each["arm"] for each in noted["results"]} == set(ARMS)
    assert noted["plan"]["longer"] == round(2 * noted["plan"]["ratio"])
    weights = {name: student_of(tmp_path, name) for name in ("SSR", "SSR, online", "SSR, shuffled")}
    assert len({tuple(each.tolist()) for each in weights.values()}) == 3
    before = times(tmp_path / "runs"), times(tmp_path / "worlds")
    second = miniature(tmp_path)
    assert second.stdout.splitlines()[-5:] == first.stdout.splitlines()[-5:]
    assert (times(tmp_path / "runs"), times(tmp_path / "worlds")) == before
    elsewhere = miniature(tmp_path / "elsewhere", "--known", str(tmp_path / "val.json"))
    assert elsewhere.stdout == first.stdout[first.stdout.index("Images: val") :]
    assert not (tmp_path / "elsewhere" / "runs").exists()
    other = miniature(tmp_path, "--steps=3")
    assert other.returncode == 2
    assert "was made with other --steps" in other.stderr


def student_of(folder: Path, name: str) -> torch.Tensor:
    student, _ = load_student(folder / "runs" / "1" / folder_of(name) / "student")
    return torch.cat([weight.detach().flatten() for weight in student.parameters()])
