"""Which labels the student is validated on, and that the figure is that of `ssr evaluate`."""

from dataclasses import replace
from pathlib import Path

import pytest

from stages.evaluate import stage
from stages.prepare.manifest import Domain, Manifest
from stages.student.saved import save_student
from stages.student.student import build_student, load_student
from stages.train.validate import Validation, choose_validation
from tests.evaluate.test_stage import CONFIG
from tests.train.example import train_config
from tests.train.world import World, build_world

STUDENT = train_config().student


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world") / "inputs")


def unlabelled(manifest: Manifest, *domains: Domain) -> Manifest:
    """The manifest without the labels of these domains' val images."""
    records = tuple(
        replace(record, label=None)
        if record.domain in domains and record.split == "val"
        else record
        for record in manifest.records
    )
    return replace(manifest, records=records)


def chosen(world: World, manifest: Manifest) -> Validation | None:
    return choose_validation(train_config(regularizer={"on": []}), manifest, world.workspace)[0]


def test_labels_of_the_target_are_preferred_and_named(world: World) -> None:
    validation = chosen(world, world.manifest)
    assert validation is not None
    assert validation.on == "1 images of target/val"
    assert validation.sees_target_labels


def test_without_them_the_source_is_measured(world: World) -> None:
    validation = chosen(world, unlabelled(world.manifest, "target"))
    assert validation is not None
    assert validation.on == "1 images of source/val"
    assert not validation.sees_target_labels


def test_without_any_there_is_no_validation(world: World) -> None:
    assert chosen(world, unlabelled(world.manifest, "target", "source")) is None


@pytest.mark.parametrize("domain", ["target", "source"])
def test_the_figure_is_that_of_evaluation(world: World, tmp_path: Path, domain: Domain) -> None:
    meta = {"classes": list(world.manifest.classes.names)}
    student = build_student(STUDENT, num_classes=11, seed=3)
    save_student(student, tmp_path / "student", config=STUDENT, meta=meta)
    evaluated = stage.run(
        CONFIG.model_copy(update={"domain": domain, "pictures": 0}),
        manifest=world.manifest,
        roots=world.roots,
        student=tmp_path / "student",
        out=tmp_path,
        progress=lambda *_: None,
    )
    manifest = world.manifest if domain == "target" else unlabelled(world.manifest, "target")
    validation = chosen(world, manifest)
    assert validation is not None
    assert validation.measure(load_student(tmp_path / "student")[0], None) == {
        "miou": evaluated.metrics.miou
    }
