import csv
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from stages.prepare.datasets.drawn import DRAWN
from stages.prepare.manifest import Manifest
from stages.student.saved import save_student
from stages.student.student import build_student, load_student
from store.errors import (
    CheckpointError,
    ConfigError,
    StoreBusyError,
    StoreError,
    StoreMismatchError,
)
from store.lease import writer_lock
from store.spec import Level
from tests.official import export_official
from tests.train.example import HRDA, SEMASK, STILL, train_config
from tests.train.world import TEACHER, World, results

REPOSITORY = Path(__file__).parents[2]
STUDENT = train_config().student
META = {"classes": list(DRAWN.names)}
FEATURE_DISTANCE = {"weight": 0.01, "classes": ["road", "building", "sky"], "min_share": 0.3}
FROZEN = {"lr": 1e-30, "warmup_iterations": 0}
"""A learning rate that leaves every weight as it is."""


def columns(out: Path) -> list[str]:
    """Names of the losses that the first row of the curves has."""
    row = next(csv.DictReader((out / "curves.csv").read_text().splitlines()))
    return [name for name, value in row.items() if value and name not in ("iteration", "lr")]


def saved_weights(out: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = safetensors.torch.load_file(out / "student/model.safetensors")
    return weights


def official_backbone(path: Path, seed: int) -> str:
    """Write a mit_tiny in the layout of the official files."""
    backbone = build_student(STUDENT, num_classes=2, seed=seed).backbone
    official = export_official(nn.ModuleDict({"backbone": backbone}).state_dict())
    torch.save({name.removeprefix("backbone."): t for name, t in official.items()}, path)
    return str(path)


def files_of(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def without(world: World, *patterns: str) -> None:
    """Remove files or folders."""
    for pattern in patterns:
        found = list(world.folder.glob(pattern))
        assert found, pattern
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("changes", "missing", "expected"),
    [
        ({}, [], "clean enhanced_source mix enhanced_mix confidence"),
        (
            {"regularizer": {"on": ["source"]}},
            ["features/target"],
            "clean enhanced_source mix confidence",
        ),
        ({"regularizer": {"on": []}}, ["features", "index.json"], "clean mix confidence"),
        (
            {"regularizer": {"on": []}, "self_training": None},
            ["features", "index.json", "drawn/dusk-*"],
            "clean",
        ),
    ],
    ids=["all", "source part", "no regulariser", "source only"],
)
def test_an_arm_needs_only_what_it_reads(
    world: World, tmp_path: Path, changes: dict[str, Any], missing: list[str], expected: str
) -> None:
    bare = world.copy(tmp_path / "bare")
    if missing:
        without(bare, *missing)
    if "features/target" in missing:
        bare.embed(domains=["source"])  # an index without the target
    result = bare.run(tmp_path / "run", iterations=2, **changes)
    assert columns(tmp_path / "run") == expected.split()
    assert result.resumed_from is None
    assert result.teacher_trained is (None if "index.json" in missing else False)


OTHER_LEVELS = {"shallow": Level(4, 40), "deep_3": Level(16, 6), "cls": Level(32, 1024)}


@pytest.mark.parametrize("kind", [{"kind": "ssr"}, {"kind": "guided", "student_drop": 0.5}])
def test_levels_have_any_name_stride_and_width(
    kind: dict[str, Any], world: World, tmp_path: Path
) -> None:
    world = world.copy(tmp_path / "world")
    world.embed(offered=OTHER_LEVELS, levels=tuple(OTHER_LEVELS))
    levels = ["shallow", "deep_3", "cls", "shallow"]
    regularizer = {**kind, "levels": levels}
    result = world.run(tmp_path / "run", iterations=1, regularizer=regularizer, log_every=1)
    assert result.curves.rows[-1]["enhanced_mix"] > 0
    assert all(result.curves.health[-1][f"gradient_{stage}"] > 0 for stage in range(4))
    sample = world.crops(train_config(regularizer=regularizer))[0]
    shapes = {level: maps.shape for level, maps in sample["source_features"].items()}
    assert shapes == {"shallow": (40, 16, 16), "deep_3": (6, 4, 4), "cls": (1024, 2, 2)}
    with pytest.raises(ConfigError, match="crop_align_px 16 is not"):
        world.run(tmp_path / "other", regularizer=regularizer, crop_align_px=16)


@pytest.mark.parametrize("trained", [True, False])
def test_a_student_and_those_that_start_from_it_name_their_teacher(
    world: World, tmp_path: Path, trained: bool
) -> None:
    copy = world.copy(tmp_path / "copy")
    noted = {**TEACHER, "trained": trained, "licence": "of its own"}
    copy.embed(teachers={"source": noted, "target": noted})
    start = copy.run(tmp_path / "start", iterations=1)
    off = {**train_config().regularizer.model_dump(mode="json"), "on": []}
    result = copy.run(tmp_path / "run", iterations=1, init=str(start.student), regularizer=off)
    assert (start.teacher_trained, result.teacher_trained) == (trained, trained)
    meta = load_student(result.student)[1]
    assert (meta["teacher_trained"], meta["teacher_licence"]) == (trained, "of its own")


def test_the_saved_student_is_the_trained_one_without_any_trace_of_the_regulariser(
    world: World, tmp_path: Path
) -> None:
    result = world.run(tmp_path, iterations=3, student=STILL)
    assert result.student == tmp_path / "student"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("checkpoint.pt", "curves.csv", "health.csv", "validation.csv", "run.json", "writer.lock"),
        *("ema", "student"),
    }
    weights = saved_weights(tmp_path)
    fresh = build_student(STUDENT, num_classes=11, seed=0).state_dict()
    assert weights.keys() == fresh.keys()
    assert {name for name in weights if torch.equal(weights[name], fresh[name])} == set()
    checkpoint = results(tmp_path)["checkpoint"]
    assert all(torch.equal(weights[name], value) for name, value in checkpoint["student"].items())
    assert not all(torch.equal(weights[name], value) for name, value in checkpoint["ema"].items())

    loaded, meta = load_student(tmp_path / "student")
    assert loaded.num_classes == 11
    assert meta["classes"] == list(world.manifest.classes.names)
    assert [tuple(color) for color in meta["palette"]] == list(world.manifest.classes.palette)
    assert meta["teacher_trained"] is False


def test_feature_distance_is_off_for_random_weights_and_says_so(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        world.run(tmp_path, iterations=1, feature_distance=FEATURE_DISTANCE)
    assert "feature distance is off: train.student.weights is random" in caplog.text
    assert "feature_distance" not in columns(tmp_path)


def test_features_are_compared_with_imagenet_and_not_with_the_student_to_start_from(
    world: World, tmp_path: Path
) -> None:
    pretrained = {**STILL, "weights": official_backbone(tmp_path / "mit_tiny.pth", seed=5)}
    other = build_student(STUDENT, num_classes=11, seed=6)
    save_student(other, tmp_path / "other", config=STUDENT, meta=META)
    result = world.run(
        tmp_path / "run",
        iterations=1,
        student=pretrained,
        init=str(tmp_path / "other"),
        feature_distance=FEATURE_DISTANCE,
    )
    assert result.curves.rows[-1]["feature_distance"] > 0.01


def test_a_start_that_learned_labels_is_noted_and_no_reference(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = export_official(build_student(STUDENT, num_classes=2, seed=5).state_dict())
    torch.save(whole, tmp_path / "mmseg.pth")
    trained: dict[str, Any] = {"student": {"weights": str(tmp_path / "mmseg.pth")}}
    world.run(tmp_path / "run", iterations=1, **trained)
    assert "so it learned labels, perhaps those of the target" in caplog.text
    with pytest.raises(ConfigError, match="compares with ImageNet's features; start from"):
        world.run(tmp_path / "other", **trained, feature_distance=FEATURE_DISTANCE)


def test_a_thing_class_that_there_is_not_is_named(world: World, tmp_path: Path) -> None:
    weights = official_backbone(tmp_path / "mit_tiny.pth", seed=5)
    distance = {**FEATURE_DISTANCE, "classes": ["car", "rider", "train"]}
    with pytest.raises(ConfigError, match=r"feature_distance.classes: rider, train is not a class"):
        world.run(tmp_path / "run", student={"weights": weights}, feature_distance=distance)


@pytest.mark.parametrize(
    "added", [{}, {"semask": SEMASK, "hrda": HRDA}], ids=["alike", "with more parts"]
)
def test_training_starts_from_a_saved_student(
    world: World, tmp_path: Path, added: dict[str, Any]
) -> None:
    start = world.run(tmp_path / "start", iterations=2, seed=3).student
    world.run(tmp_path / "run", iterations=1, init=str(start), optimizer=FROZEN, student=added)
    weights, begun = saved_weights(tmp_path / "start"), results(tmp_path / "run")["checkpoint"]
    parameters = dict(build_student(STUDENT, num_classes=11, seed=0).named_parameters())
    for name in parameters:
        assert torch.allclose(begun["student"][name], weights[name], atol=1e-12), name
        assert torch.allclose(begun["ema"][name], weights[name], atol=1e-12), name


@pytest.mark.parametrize(
    ("student", "classes", "says"),
    [
        ({}, DRAWN.names[:5], "class 5 of the student is none, of the manifest pole"),
        (
            {"head": "mlp"},
            DRAWN.names,
            "another architecture than train.student (mit_tiny, daformer, 16",
        ),
    ],
    ids=["classes", "head"],
)
def test_a_student_of_another_kind_is_no_start(
    world: World,
    tmp_path: Path,
    student: dict[str, Any],
    classes: Sequence[str],
    says: str,
) -> None:
    config = STUDENT.model_copy(update=student)
    other = build_student(config, num_classes=len(classes), seed=0)
    save_student(other, tmp_path / "other", config=config, meta={"classes": list(classes)})
    with pytest.raises(CheckpointError) as caught:
        world.run(tmp_path / "run", init=str(tmp_path / "other"))
    message = str(caught.value)
    assert message.startswith("train.init: ")
    assert str(tmp_path / "other") in message
    assert says in message
    assert "\n" not in message


def other_teacher(world: World) -> dict[str, Any]:
    teacher = {**TEACHER, "architecture": "other random numbers"}
    world.embed(teachers={"source": teacher, "target": teacher})
    return {}


def other_manifest(world: World) -> dict[str, Any]:
    manifest = Manifest.read(world.manifest_path)
    kept = [record for record in manifest.records if record.split == "train"]
    replace(manifest, records=tuple(kept)).write(world.manifest_path)
    return {}


def other_start(world: World) -> dict[str, Any]:
    student = build_student(STUDENT, num_classes=11, seed=8)
    save_student(student, world.folder / "start", config=STUDENT, meta=META)
    return {}


def other_weights(world: World) -> dict[str, Any]:
    official_backbone(world.folder / "mit_tiny.pth", seed=8)
    return {}


@pytest.mark.parametrize(
    ("change", "other"),
    [
        (lambda world: {}, None),
        (lambda world: dict.fromkeys(("workers", "validate_every", "checkpoint_every"), 1), None),
        (lambda world: {"log_every": 1, "log_to": ["tensorboard"], "threads": 2}, None),
        (lambda world: {"seed": 1, "iterations": 3}, "train.iterations, train.seed"),
        (other_teacher, "features"),
        (other_manifest, "manifest"),
        (other_start, "start.*"),
        (other_weights, "start.*"),
    ],
    ids=["nothing", "often", "log", "seed", "teacher", "data", "init", "weights"],
)
def test_only_the_same_run_goes_on_in_its_folder(
    world: World, tmp_path: Path, change: Callable[[World], dict[str, Any]], other: str | None
) -> None:
    copy = world.copy(tmp_path / "copy")
    save_student(
        build_student(STUDENT, num_classes=11, seed=7),
        copy.folder / "start",
        config=STUDENT,
        meta=META,
    )
    settings: dict[str, Any] = {
        "iterations": 1,
        "init": str(copy.folder / "start"),
        "student": {"weights": official_backbone(copy.folder / "mit_tiny.pth", seed=7)},
        "device": "cpu",
    }
    run = tmp_path / "run"
    copy.run(run, **settings)
    before = files_of(run)
    changed = {**settings, **change(copy)}
    if other is None:
        assert copy.run(run, **changed).resumed_from == 1
    else:
        with pytest.raises(ConfigError, match=rf"run holds another run \(other {other}\); give"):
            copy.run(run, **changed)
    assert {name: files_of(run)[name] for name in before} == before


def test_a_second_training_in_one_folder_is_refused(world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with (
        writer_lock(out, "the run"),
        pytest.raises(StoreBusyError, match=r"the run in .*run is being written by process \d+"),
    ):
        world.run(out)
    assert not (out / "checkpoint.pt").exists()


def test_the_student_to_start_from_is_not_overwritten(world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"train\.init is .*, which this run overwrites"):
        world.run(out, init=str(out / "best"))


def test_the_averaged_model_is_kept_once_it_has_followed_the_student(
    world: World, tmp_path: Path
) -> None:
    world.run(tmp_path, iterations=2, self_training={"start": 1})
    averaged, last = (load_student(tmp_path / name)[1] for name in ("ema", "student"))
    assert averaged == {**last, "network": "ema"}
    world.run(tmp_path / "never", iterations=2, self_training={"start": 2})
    assert not (tmp_path / "never" / "ema").exists()


def change_image(world: World) -> None:
    manifest = Manifest.read(world.manifest_path)
    first, *others = manifest.records
    replace(manifest, records=(replace(first, sha256="0" * 64), *others)).write(world.manifest_path)


def mix_teachers(world: World) -> None:
    world.embed(teachers={"target": {**TEACHER, "architecture": "other random numbers"}})


@pytest.mark.parametrize(
    ("damage", "kind", "says"),
    [
        (change_image, StoreMismatchError, "1 images changed since they were embedded"),
        (mix_teachers, StoreMismatchError, "of two teachers"),
    ],
)
def test_a_store_that_does_not_fit_is_refused_before_training(
    world: World, tmp_path: Path, damage: Callable[[World], None], kind: type[StoreError], says: str
) -> None:
    copy = world.copy(tmp_path / "copy")
    damage(copy)
    done = []
    with pytest.raises(StoreError) as caught:
        copy.run(
            tmp_path / "run",
            lambda *call: done.append(call),
            regularizer={"levels": ["stride8", "stride8", "stride16", "stride16"]},
        )
    assert type(caught.value) is kind
    message = str(caught.value)
    assert says in message
    assert "run `ssr embed`" in message
    assert "\n" not in message
    assert not done
    assert not (tmp_path / "run" / "student").exists()


IMPORTS = """
import importlib, pkgutil, sys, stages.train
for module in pkgutil.walk_packages(stages.train.__path__, "stages.train."):
    importlib.import_module(module.name)
print(*sys.modules)
"""


def test_training_loads_neither_sam_nor_the_embedding_nor_dask() -> None:
    loaded = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORTS], cwd=REPOSITORY, check=True,
        capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert "stages.train.loop" in loaded
    unwanted = ("segment_anything", "stages.embed", "stages.evaluate", "dask", "torchvision")
    assert [name for name in loaded if name.startswith(unwanted)] == []
