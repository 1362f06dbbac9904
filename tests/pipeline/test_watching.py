"""The wrong-teacher test is part of every validation, or a line says why it is not."""

import csv
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from pipeline import INDEX, MANIFEST
from pipeline.params import load_params
from stages.prepare.manifest import Manifest
from stages.student.student import Student, load_student
from stages.train.regularizers.aligned_fusion import AlignedBranch
from stages.train.validate import Validation, choose_validation
from stages.train.workspace import Workspace
from tests.pipeline.workplace import SMALLEST, demand, made

GUIDED = {"train.regularizer.kind": "guided", "train.regularizer.student_drop": 0.5}
WITH_VAL = {**SMALLEST, "embed.splits": ["train", "val"], "prepare.target.val": 5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guided")
    return made(folder, {**WITH_VAL, **GUIDED}, "prepare", "embed", "train")


@pytest.fixture
def validation(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Validation:
    monkeypatch.chdir(trained)
    params = load_params(Path("params.yaml"))
    workspace = Workspace(MANIFEST, INDEX, params.store.location, params.prepare.roots)
    chosen, without = choose_validation(params.train, Manifest.read(MANIFEST), workspace)
    assert chosen is not None
    assert without is None
    return chosen


def branch_of(student: Student, *, reads: bool) -> AlignedBranch:
    """A guide with the student's head, whose fusion reads its teacher much or not at all."""
    guide = AlignedBranch(
        student.channels, {"stride8": 64}, ["stride8"] * 4, 0.5, deepcopy(student.head)
    )
    for parameter in guide.fusion.parameters():
        torch.nn.init.constant_(parameter, 0.0)
        if reads and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    return guide.eval()


def test_every_validation_has_its_row(trained: Path) -> None:
    rows = list(csv.DictReader((trained / "runs/validation.csv").read_text().splitlines()))
    assert [row["iteration"] for row in rows] == ["2", "4"]
    for row in rows:
        assert all(0 <= float(row[name]) <= 100 for name in ("miou", "enhanced", "wrong_teacher"))


def test_a_branch_that_reads_nothing_loses_nothing_and_is_the_student(
    validation: Validation,
) -> None:
    student = load_student(Path("runs/student"))[0].eval()
    deaf = validation.measure(student, branch_of(student, reads=False))
    assert deaf["enhanced"] == deaf["wrong_teacher"] == deaf["miou"]
    attentive = validation.measure(student, branch_of(student, reads=True))
    assert attentive["enhanced"] != attentive["wrong_teacher"]


def test_each_image_gets_the_features_of_another(validation: Validation) -> None:
    test = validation.wrong_teacher
    assert test is not None
    images, others = (
        [record.image_id for record in side] for side in zip(*test.pairs, strict=True)
    )
    assert len(images) == 5
    assert sorted(images) == sorted(others)
    assert all(one != other for one, other in zip(images, others, strict=True))


def test_a_store_without_val_says_so_in_a_line(workplace: Path) -> None:
    for command in ("prepare", "embed"):
        demand(command)
    said = demand("train")
    assert (
        "no wrong-teacher test (does the branch read its teacher?): add val to embed.splits" in said
    )
    rows = list(csv.DictReader((workplace / "runs/validation.csv").read_text().splitlines()))
    assert {row["enhanced"] for row in rows} == {""}
