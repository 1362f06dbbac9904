"""The stage on a handful of images, with students whose answers are known beforehand."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from stages.evaluate import stage
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.stage import run
from stages.prepare.datasets.camvid import CAMVID_11, Config
from stages.prepare.labels import ClassTable, LabelTable
from stages.prepare.manifest import ImageRecord, Manifest, Split
from stages.student.config import ONCE
from stages.student.metrics import Metrics
from stages.student.saved import read_card, save_student
from stages.student.student import build_student
from store.errors import DataError, SSRError
from store.fingerprint import fingerprint_of, sha256_of_file
from tests.evaluate.models import student_config
from tests.prepare.conftest import save as save_pixels

CLASSES = ClassTable(
    names=("road", "sky", "car"), palette=((128, 64, 128), (70, 130, 180), (0, 0, 142))
)
LABELS = LabelTable({10: 0, 20: 1, 30: 2, 0: 255})  # stored ids are not train ids
CONFIG = EvaluateConfig(
    domain="target",
    split="val",
    datasets={},
    subsets={},
    weights="student",
    pictures=2,
    device="cpu",
    **ONCE.model_dump(),
)
STUDENT = student_config(head_channels=8)
SPLITS = {"train": "train", "val": "val"}
FOG = {"kind": "camvid", "root": "photos", "fit_px": None, "splits": SPLITS}
RAW, RESIZED, WORKING = (60, 100), (30, 50), (32, 64)


class World:
    """A target domain on disk, a manifest of it, and a way to evaluate a student on it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "target"
        self.student = folder / "student"
        self.out = folder / "runs"
        self.records: list[ImageRecord] = []
        self.classes, self.labels = CLASSES, LABELS

    def add(
        self,
        name: str,
        stored: NDArray[np.uint8] | None,
        image: NDArray[np.uint8] | None = None,
        *,
        split: Split = "val",
    ) -> None:
        """Save an image and its label of stored ids, and record them."""
        file, label = self.root / f"{name}.png", self.root / f"{name}_label.png"
        save_pixels(file, np.full((*RAW, 3), 90, np.uint8) if image is None else image)
        if stored is not None:
            save_pixels(label, stored)
        self.records.append(
            ImageRecord(
                image_id=f"target/{split}/town/{name}",
                domain="target",
                split=split,
                image=f"{name}.png",
                label=None if stored is None else f"{name}_label.png",
                raw_size_px=RAW,
                resized_size_px=RESIZED,
                working_size_px=WORKING,
                sha256=sha256_of_file(file),
                class_pixels=None,
                label_sha256=None if stored is None else sha256_of_file(label),
            )
        )

    def content(self) -> dict[str, Any]:
        """What `metrics.json` says."""
        content: dict[str, Any] = json.loads((self.out / "metrics.json").read_text())
        return content

    def evaluate(self, config: EvaluateConfig = CONFIG) -> Mapping[str, Metrics]:
        return run(
            config,
            manifest=Manifest(self.classes, tuple(self.records), {"target": self.labels}),
            roots={"target": self.root},
            student=self.student,
            out=self.out,
            progress=lambda *call: None,
        )


def halves(left: int, right: int, *, void_rows: int = 0) -> NDArray[np.uint8]:
    """Return stored ids: two halves, void at the bottom."""
    stored = np.full(RAW, left, np.uint8)
    stored[:, RAW[1] // 2 :] = right
    stored[RAW[0] - void_rows :] = 0
    return stored


def save(folder: Path, *, answer: int, classes: Sequence[str] = CLASSES.names) -> None:
    """Save a tiny student that answers one class everywhere."""
    student = build_student(STUDENT, num_classes=len(classes), seed=0)
    classifier = student.head.get_submodule("classifier")
    assert isinstance(classifier, nn.Conv2d)
    assert classifier.bias is not None
    with torch.no_grad():
        classifier.weight.zero_()
        classifier.bias.zero_()
        classifier.bias[answer] = 1
    meta = {"classes": list(classes), "teacher_trained": False}
    save_student(student, folder, config=STUDENT, meta=meta)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two labelled images and a student that says road everywhere.

    Of 60x100 pixels each: a is half road, half sky; b is all road with 15 void rows.
    """
    world = World(tmp_path)
    world.add("a", halves(10, 20))
    world.add("b", halves(10, 10, void_rows=15))
    save(world.student, answer=0)
    return world


def test_files_hold_the_scores_of_the_labelled_images_of_the_split(world: World) -> None:
    content = fingerprint_of([(r.sha256, r.label_sha256) for r in world.records])[:12]
    world.add("c", None)
    world.add("d", halves(20, 20), split="train")
    result = world.evaluate()
    # road: 3000 + 4500 hits of 3000 + 4500 labelled and 10500 predicted; sky: 3000 missed.
    expected = {
        "miou": 35.71,  # (7500/10500 + 0) / 2; car is nowhere
        "accuracy": 71.43,  # 7500 / 10500
        "mean_accuracy": 50.0,
        "images": 2,
        "content": content,
        "teacher_trained": False,
        "student": sha256_of_file(world.student / "model.safetensors")[:12],
        "weights": "student",
        "domain": "target",
        "split": "val",
        "iou": {"road": 71.43, "sky": 0.0, "car": None},
    }
    assert world.content() == expected
    assert {name: each.miou for name, each in result.items()} == {"target/val": 35.71}
    table = (world.out / "per_class.csv").read_text()
    assert table == "class,iou,accuracy\nroad,71.43,100.0\nsky,0.0,0.0\ncar,,\n"
    table = (world.out / "confusion.csv").read_text()
    assert table == "label,road,sky,car\nroad,7500,0,0\nsky,3000,0,0\ncar,0,0,0\n"


class Brightness(nn.Module):
    """A student that calls bright cells road and dark ones sky."""

    num_classes = 3

    def forward(self, image: Tensor) -> Tensor:
        cells = F.avg_pool2d(image.mean(dim=1, keepdim=True), 4)
        return torch.cat([cells, -cells, torch.full_like(cells, -100)], dim=1)


def test_image_padding_and_label_keep_their_frames(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.zeros((*RAW, 3), np.uint8)
    image[:, :80] = 255  # the border is not where mirrored or stretched padding would put it
    stored = np.full(RAW, 20, np.uint8)
    stored[:, :80] = 10
    world.records.clear()
    world.add("bright", stored, image)
    card = read_card(world.student)
    monkeypatch.setattr(stage, "open_student", lambda _: (Brightness().eval(), card))
    metrics = world.evaluate()["target/val"]
    assert metrics.iou["road"] is not None
    assert metrics.iou["sky"] is not None
    # A border off by one column of 100 costs sky 5 points, by the padding's width 14 columns.
    assert metrics.iou["road"] > 97
    assert metrics.iou["sky"] > 90


def test_a_second_run_gives_the_same_bytes_and_removes_its_old_pictures(world: World) -> None:
    world.evaluate()
    first = contents(world.out)
    assert set(first) == {
        "metrics.json",
        "per_class.csv",
        "confusion.csv",
        "confusion.png",
        "000-a.png",
        "001-b.png",
    }
    (world.out / "pictures" / "notes.png").write_bytes(b"a person's own file")
    (world.out / "pictures" / "002-gone.png").write_bytes(b"of an earlier run")
    world.evaluate()
    assert contents(world.out) == first | {"notes.png": b"a person's own file"}


def camvid(folder: Path, **labels: NDArray[np.uint8]) -> Config:
    """Write a dataset of CamVid's layout and classes; every image is grey."""
    for name, label in labels.items():
        save_pixels(folder / "val" / "images" / f"{name}.png", np.full((*RAW, 3), 90, np.uint8))
        save_pixels(folder / "val" / "labels" / f"{name}.png", label)
    shutil.copytree(folder / "val", folder / "train", dirs_exist_ok=True)
    return Config.model_validate(FOG | {"root": str(folder)})


@pytest.fixture
def streets(world: World) -> EvaluateConfig:
    """Measure on two further datasets, with a student that says building (1) everywhere."""
    world.classes, world.labels = CAMVID_11, LabelTable({10: 0, 20: 1, 0: 255})
    save(world.student, answer=1, classes=CAMVID_11.names)
    half = np.full(RAW, 1, np.uint8)
    half[: RAW[0] // 2] = 0
    fog = camvid(world.out.parent / "fog", a=half, b=half)
    night = camvid(world.out.parent / "night", a=np.full(RAW, 1, np.uint8))
    return CONFIG.model_copy(update={"datasets": {"fog": fog, "night": night}, "pictures": 1})


def test_further_datasets_are_measured_each_and_in_the_mean(
    world: World, streets: EvaluateConfig
) -> None:
    result = world.evaluate(streets)
    # sky and building of a: half each; b of the target is all sky with void rows
    assert (result["fog"].miou, result["night"].miou) == (25.0, 100)
    content = world.content()
    assert list(result) == list(content["datasets"]) == ["target/val", "fog", "night"]
    assert content["datasets"]["fog"]["images"] == 2
    assert content["datasets"]["fog"]["iou"]["building"] == 50
    miou = result["target/val"].miou
    assert content["miou"] == content["datasets"]["target/val"]["miou"] == miou
    assert content["mean_miou"] == round((miou + 125) / 3, 2)
    for name in ("fog", "night"):
        folder = world.out / "datasets" / name
        middle = "000-b.png" if name == "fog" else "000-a.png"  # of its images
        assert {path.name for path in folder.rglob("*.png")} == {"confusion.png", middle}
        assert (folder / "per_class.csv").read_text().startswith("class,iou,accuracy\nsky,")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: shutil.rmtree(root / "val"), "fog/val"),
        (lambda root: (root / "val/images/b.png").write_bytes(b"no"), "b.png"),
    ],
)
def test_a_damaged_dataset_is_named_before_anything_is_written(
    world: World, streets: EvaluateConfig, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(world.out.parent / "fog")
    with pytest.raises(DataError, match=message) as error:
        world.evaluate(streets)
    assert "\n" not in str(error.value)
    assert not (world.out / "metrics.json").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def exchange(world: World, name: str) -> None:
    Image.new("L", (40, 30), 10).save(world.root / name)


@pytest.mark.parametrize(
    ("spoil", "changes", "says"),
    [
        (
            lambda world: world.add("c", None, split="train"),
            {"split": "train"},
            "none of the 1 images of target/train in the manifest has a label",
        ),
        (
            lambda world: None,
            {"subsets": {"mIoU2": ("road", "bus")}},
            r"evaluate\.subsets\.mIoU2 names bus, .*sky",
        ),
        (
            lambda world: save(world.student, answer=0, classes=["road", "building", "car"]),
            {},
            "class 1 of the student is building, of the manifest sky",
        ),
        (lambda world: exchange(world, "a.png"), {}, "a.png: has changed since the manifest"),
        (lambda world: exchange(world, "a_label.png"), {}, "a_label.png: has changed since the"),
    ],
)
def test_what_cannot_be_measured_is_refused_and_nothing_is_written(
    world: World, spoil: Callable[[World], object], changes: dict[str, object], says: str
) -> None:
    spoil(world)
    with pytest.raises(SSRError, match=says) as error:
        world.evaluate(CONFIG.model_copy(update=changes))
    assert "\n" not in str(error.value)
    assert not world.out.exists()


@pytest.mark.parametrize(
    "bad",
    [
        {"domain": None},
        {"window_px": 100},
        {"subsets": {"mIoU2": ["road", "road"]}},
        {"subsets": {"two words": ["road"]}},
        {"datasets": {"fog": {**FOG, "labelled": 2}}},
        {"datasets": {"../night": FOG}},
    ],
)
def test_parameters_that_mean_nothing_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        EvaluateConfig.model_validate(CONFIG.model_dump() | bad)
