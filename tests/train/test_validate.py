from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.evaluate import stage
from stages.prepare.manifest import Domain, Manifest
from stages.student.saved import save_student
from stages.student.student import build_student, load_student
from stages.train.state import TrainingState
from stages.train.validate import Validation, choose_validation
from tests.evaluate.test_stage import CONFIG
from tests.train.example import train_config
from tests.train.world import World, assert_same, results, stop_at

SETTINGS: dict[str, Any] = {"iterations": 5, "validate_every": 2, "checkpoint_every": 2}


def scripted(world: World, *scores: float) -> Validation:
    left = iter(scores)
    return world.scripted(lambda student: next(left))


def validations(out: Path) -> list[str]:
    """Iteration and mean IoU of each row; the branch is not measured here."""
    lines = (out / "validation.csv").read_text().splitlines()
    assert lines[0] == "iteration,miou,enhanced,wrong_teacher"
    return ["iteration,miou", *(line.removesuffix(",,") for line in lines[1:])]


def test_the_best_student_is_kept_beside_the_last(world: World, tmp_path: Path) -> None:
    world.train(train_config(**SETTINGS), tmp_path / "run", validation=scripted(world, 1, 3, 3))
    best, meta = load_student(tmp_path / "run" / "best")
    assert meta["chosen"] == {
        "iteration": 4,  # the first of equals
        "miou": 3,
        "on": "1 images of target/val",
        "by_target_labels": True,
    }
    with pytest.raises(KeyboardInterrupt):
        world.run(tmp_path / "four", stop_at(4), iterations=5, checkpoint_every=4)
    expected = torch.load(tmp_path / "four" / "checkpoint.pt")["student"]
    assert_same(dict(best.state_dict()), dict(expected))
    last, _ = load_student(tmp_path / "run" / "student")
    assert not all(
        one.equal(other) for one, other in zip(best.parameters(), last.parameters(), strict=True)
    )


def test_validation_changes_no_weight(world: World, tmp_path: Path) -> None:
    world.run(tmp_path / "without", **{**SETTINGS, "validate_every": 0})
    world.train(train_config(**SETTINGS), tmp_path / "with", validation=scripted(world, 1, 2, 3))
    without, with_ = (results(tmp_path / name) for name in ("without", "with"))
    assert without["student/model.safetensors"] == with_["student/model.safetensors"]
    assert without["curves.csv"] == with_["curves.csv"]


@pytest.mark.parametrize("checkpoint_every", [2, 100])
def test_a_resumed_run_remembers_its_best_which_is_in_a_checkpoint_at_once(
    world: World, tmp_path: Path, checkpoint_every: int
) -> None:
    config = train_config(**{**SETTINGS, "checkpoint_every": checkpoint_every})
    with pytest.raises(KeyboardInterrupt):
        world.train(config, tmp_path, stop_at(3), validation=scripted(world, 7))
    assert world.train(config, tmp_path, validation=scripted(world, 5, 6)).resumed_from == 2
    assert validations(tmp_path) == ["iteration,miou", "2,7", "4,5", "5,6"]
    assert load_student(tmp_path / "best")[1]["chosen"]["iteration"] == 2


def test_the_best_student_waits_for_the_checkpoint_that_knows_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, best = TrainingState.save, tmp_path / "best"

    def full(self: TrainingState, path: Path, *, iteration: int, fingerprint: str) -> None:
        if iteration == 4:
            raise OSError(28, "No space left on device", str(path))
        save(self, path, iteration=iteration, fingerprint=fingerprint)

    monkeypatch.setattr(TrainingState, "save", full)
    with pytest.raises(OSError, match="No space left"):
        world.train(train_config(**SETTINGS), tmp_path, validation=scripted(world, 7, 8))
    assert load_student(best)[1]["chosen"]["iteration"] == 2
    monkeypatch.undo()
    world.train(train_config(**SETTINGS), tmp_path, validation=scripted(world, 5, 6))
    assert load_student(best)[1]["chosen"]["iteration"] == 2


STUDENT = train_config().student


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
        "miou": evaluated[f"{domain}/val"].miou
    }
