"""The miniature experiment: arms differ as they say, and tables are arithmetic."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from benchmarks.feeds import FeedName, Online, Shuffled, feed_of
from benchmarks.miniature.__main__ import Earlier, Plan, planned
from benchmarks.miniature.arms import ALL_ARMS, ARMS, BASELINE, EQUAL_TIME, GUIDED, folder_of
from benchmarks.miniature.place import Place
from benchmarks.miniature.plot import plot
from benchmarks.miniature.tables import difference_table
from benchmarks.runs import Result, result_of
from benchmarks.tables import Interval, arm_table, class_table
from examples.drawn import TEACHER
from pipeline.init import write_preset
from stages.embed.teachers.sam_encoder import SamEncoder, draw_encoder
from stages.embed.teachers.sam_sizes import ARCHITECTURES
from stages.prepare.datasets.drawn import Config
from stages.student.student import load_student
from stages.train.crops import Batch, Sample
from stages.train.step import STORED, Mixed
from store.errors import ConfigError
from store.fingerprint import fingerprint_of
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


def test_only_the_oracle_has_labels_of_the_target(place: Place) -> None:
    for world in ("drawn", "untrained", "int8"):
        assert drawn(place.params(1, world).prepare.source).style == "day"
    oracle = place.params(1, "oracle").prepare
    assert drawn(oracle.source).style == "dusk"
    assert drawn(oracle.source).model_dump() == drawn(oracle.target).model_dump()


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


def test_a_plan_is_of_all_values_but_not_of_a_folder_or_an_exam(place: Place) -> None:
    elsewhere = place.out / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "params.yaml").write_bytes((place.out / "params.yaml").read_bytes())
    assert place.choices() == Place(elsewhere, "test").choices()
    for change in ("train.batch_size=8", "prepare.source.train=3", "embed.teacher.seed=1"):
        assert place._replace(overrides=(change,)).choices() != place.choices()


def test_a_plan_is_of_what_the_arms_are(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint_of(place.choices())
    monkeypatch.setitem(ARMS, GUIDED, ARMS[GUIDED]._replace(changes=("train.batch_size=8",)))
    assert fingerprint_of(place.choices()) != before


def test_every_arm_has_a_folder_of_its_own() -> None:
    folders = [folder_of(name) for name in ALL_ARMS]
    assert len(set(folders)) == len(folders)
    assert all(set(folder) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for folder in folders)


class Numbered(Dataset[Sample]):
    """Samples in which everything is the number of the sample."""

    def __getitem__(self, index: int) -> Sample:
        image = np.full((3, 8, 8), index, np.float32)
        tokens = np.full((2, 1, 1), index % 100, np.float16)
        return {
            "source_image": image,
            "source_label": np.zeros((8, 8), np.uint8),
            "source_features": {"stride8": tokens},
            "target_image": image,
            "target_valid": np.ones((8, 8), np.bool_),
            "target_features": {"stride8": tokens},
        }


def test_shuffled_features_are_those_of_another_sample() -> None:
    sample = Shuffled(Numbered())[3]
    assert sample["source_image"].max() == sample["target_image"].max() == 3
    for features in (sample["source_features"], sample["target_features"]):
        assert features["stride8"].max() != 3


@pytest.fixture(scope="module")
def teacher() -> SamEncoder:
    return SamEncoder(
        draw_encoder(ARCHITECTURES["tiny"], 0),
        torch.device("cpu"),
        "float32",
    )


@pytest.mark.parametrize("side_px", [96, 128])
def test_online_features_are_the_teachers_of_the_crop_as_it_is(
    teacher: SamEncoder, side_px: int
) -> None:
    """A crop of 128 px is a whole tile at stride 8; any other fills the teacher's input, too."""
    image = torch.randn(1, 3, side_px, side_px)
    scaled = torch.nn.functional.interpolate(image, size=(256, 256), mode="bilinear")
    tokens = Online(teacher, ("stride8",)).encode(image)["stride8"]
    assert tokens.shape == (1, 64, 16, 16)
    torch.testing.assert_close(tokens, teacher.encode(scaled, ["stride8"])["stride8"])


def test_online_sees_the_mixed_image_and_replaces_stored_features(teacher: SamEncoder) -> None:
    online = Online(teacher, ("stride8",))
    sample = online.samples(Numbered())[0]
    assert sample["source_features"]["stride8"].shape == (64, 16, 16)
    image = torch.randn(2, 3, 64, 64)
    nothing = torch.zeros(2, 64, 64)
    batch = Batch(image, nothing.long(), {}, image, nothing.bool(), {})
    mixed = Mixed(2 * image, nothing.long(), nothing, nothing.bool()[:, None])
    seen = online.mixer(mixed, batch)["stride8"]
    torch.testing.assert_close(seen, online.encode(2 * image)["stride8"])
    assert seen.requires_grad is False
    assert not seen.is_inference()  # training goes back through what reads it


def test_feeds_have_names(place: Place) -> None:
    params, names = place.params(1, "untrained"), get_args(FeedName)
    assert [feed_of(name, params).name for name in names] == list(names)
    assert feed_of("stored", params) is STORED


def test_what_is_no_earlier_piece_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    empty: dict[str, object] = {"exam": "test", "plan": None, "results": []}
    for text in (None, "{", "[]", json.dumps(empty), json.dumps({**empty, "plan": {}})):
        if text is not None:
            path.write_text(text)
        with pytest.raises(ConfigError, match=r"--known names a test\.json"):
            Earlier.read(path, "test")


def test_an_earlier_piece_is_of_the_same_images(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    path.write_text(json.dumps({"exam": "test", "plan": PLAN, "results": RESULTS}))
    earlier = Earlier.read(path, "test")
    assert earlier.plan == PLAN
    assert earlier.results[GUIDED, 1]["miou"] == 35.0
    with pytest.raises(ConfigError, match="is of test images; give --exam test or other results"):
        Earlier.read(path, "val")


def test_an_earlier_piece_is_of_the_same_plan(place: Place) -> None:
    options = Namespace(steps=500, warm_steps=1600, first_seed=1, known=Path("test.json"))
    settings = {"steps": 500, "warm_steps": 1600, "params": fingerprint_of(place.choices())}
    plan = Plan(**{**PLAN, "settings": settings})
    assert planned(place, options, plan) == plan  # taken over
    assert planned(place, options, None) == plan
    with pytest.raises(ConfigError, match=r"another plan than that of test\.json"):
        planned(place, options, Plan(**{**plan, "longer": 681}))
    with pytest.raises(ConfigError, match="was made with other --steps"):
        planned(place, Namespace(**{**vars(options), "steps": 400}), plan)


def test_an_earlier_piece_that_does_not_fit_leaves_no_plan(place: Place) -> None:
    options = Namespace(steps=500, warm_steps=1600, first_seed=1, known=Path("test.json"))
    with pytest.raises(ConfigError, match=r"test\.json: is of other --steps"):
        planned(place, options, PLAN)
    assert not (place.out / "plan.json").exists()


def test_a_damaged_plan_is_one_line(place: Place) -> None:
    options = Namespace(steps=500, warm_steps=1600, first_seed=1, known=None)
    for text in ("{", "[]", "{}"):
        (place.out / "plan.json").write_text(text)
        with pytest.raises(ConfigError, match=r"plan\.json: is damaged"):
            planned(place, options, None)


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


def result(arm: str, seed: int, dusk: float, fog: float, car: float | None = 1.0) -> Result:
    return {
        "arm": arm,
        "seed": seed,
        "iterations": 500,
        "cpu_s": 90.0 if seed else None,
        "miou": dusk,
        "iou": {"road": dusk, "car": car},
        "others": {"fog": {"miou": fog, "iou": {"road": fog, "car": None}}},
        "commit": None,
    }


PLAN = Plan(settings={}, cpu_s_per_step={}, ratio=1.36, longer=680)


RESULTS = (
    *(result(BASELINE, seed, 30.0 + seed, 20.0) for seed in range(3)),
    *(result(EQUAL_TIME, seed, 31.0, 21.0) for seed in range(3)),
    *(result(GUIDED, seed, 33.0 + 2 * seed, 20.0 - seed, car=None) for seed in range(3)),
)


def test_an_interval_is_students_t_around_the_mean_of_differences() -> None:
    interval = Interval.of([1.0, 2.0, 3.0])
    assert interval.mean == pytest.approx(2.0)
    assert interval.high - interval.mean == pytest.approx(4.303 / 3**0.5)
    assert str(interval) == "+2.00 (-0.48 to +4.48)"


def test_tables_pair_arms_by_seed() -> None:
    rows = arm_table(RESULTS, BASELINE).splitlines()
    assert rows[2].startswith(f"| {BASELINE} | 500 | 1.5 | 30.00 | 31.00 | 32.00 | 31.00 ± 1.00 |")
    assert rows[4].endswith("| 35.00 ± 2.00 | 19.00 | +4.00 (+1.52 to +6.48) |")
    differences = difference_table(RESULTS)
    assert f"| guided minus {BASELINE} | +4.00 (+1.52 to +6.48) | -1.00" in differences
    assert "SSR" not in differences  # not run
    assert class_table(RESULTS).splitlines()[-1] == "| car | 1.0 | 1.0 |  |"


def test_one_seed_has_no_interval() -> None:
    alone = [each for each in RESULTS if each["seed"] == 0]
    assert arm_table(alone, BASELINE).splitlines()[-1].endswith("| 33.00 | 20.00 |  |")


def test_the_plot_has_a_dot_for_each_run_and_a_bar_for_each_arm() -> None:
    tree = ElementTree.fromstring(plot(RESULTS, "a < b"))
    parts = [element.tag.rpartition("}")[2] for element in tree]
    assert parts.count("circle") == len(RESULTS)
    bars = [element for element in tree if element.get("stroke-width") == "3"]
    assert len(bars) == 3


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
