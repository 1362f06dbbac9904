"""Twenty mistakes of a first day, each with the test that demands one line and exit code 2."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.prepare.labels import CAMVID_11
from tests.faults.disk import obeying_permissions
from tests.pipeline.mistakes import (
    Case,
    assert_one_line_and_nothing_lost,
    assert_refused,
    identifier,
    params,
    remove,
    save_teacher,
)
from tests.pipeline.workplace import demand, stored

SWAPPED = params(
    prepare={
        "source.splits": {"train": "dusk", "val": "dusk_val"},
        "target.splits": {"train": "day", "val": None},
    }
)


def colour_the_labels() -> None:
    palette = np.array([*CAMVID_11.palette, (0, 0, 0)], np.uint8)
    for path in sorted(Path("photos/day/labels").iterdir()):
        with Image.open(path) as label:
            ids = np.asarray(label)
        Image.fromarray(palette[ids.clip(max=len(CAMVID_11))]).save(path)


def own_classes_of_colours_alone() -> None:
    classes = [
        {"name": name, "color": list(color), "ids": []}
        for name, color in zip(CAMVID_11.names, CAMVID_11.palette, strict=True)
    ]
    source = {
        "kind": "folder",
        "root": "photos",
        "fit_px": None,
        "train_images": "day/images",
        "train_labels": "day/labels",
        "val_images": None,
        "val_labels": None,
        "classes": classes,
        "ignore_ids": [255],
        "ignore_colors": [[0, 0, 0]],
    }
    params(prepare={"source": source})()


def swap_and_lose_the_labels() -> None:
    SWAPPED()
    remove("photos/dusk/labels")()


def swap_and_prepare() -> None:
    SWAPPED()
    demand("prepare")


CASES = [
    Case(
        "typo in an architecture",
        "embed -S embed.teacher.architecture=vitb",
        ("embed.teacher.architecture is 'vitb'", "'tiny', 'vit_b', 'vit_l' or 'vit_h'"),
    ),
    Case(
        "typo in `random`",
        "embed -S embed.teacher.weights=randm",
        ("randm: no such weight file", "embed.teacher.weights"),
    ),
    Case(
        "typo in the student's weights",
        "train -S train.student.weights=rndom",
        ("train.student.weights: rndom", "no such file or folder", "no Hugging Face id", "correct"),
    ),
    Case(
        "folder of a split instead of the root",
        "prepare -S prepare.target.root=photos/dusk -S prepare.target.splits.val=null",
        ("photos/dusk/dusk/images", "no such folder", "correct the path"),
    ),
    Case(
        "labels in RGB, ids expected",
        "prepare",
        ("photos/day/labels/00000.png", "RGB colours", "stores class ids", "correct the label"),
        colour_the_labels,
    ),
    Case(
        "labels of ids, RGB expected",
        "prepare",
        ("photos/day/labels/00000.png", "holds class ids", "only colours", "correct the label"),
        own_classes_of_colours_alone,
    ),
    Case(
        "domains swapped, no labels there",
        "prepare",
        (
            "photos/dusk/images/00006.png",
            "no label",
            "5 more: 00007.png, 00008.png, 00009.png, ...",
        ),
        swap_and_lose_the_labels,
    ),
    Case(
        "domains swapped, no prepare since",
        "train",
        ("data/manifest.parquet", "another prepare.source.splits", "ssr prepare", "old value"),
        SWAPPED,
    ),
    Case(
        "domains swapped after embed",
        "train",
        ("data/features/source/", "no image 'source/train/dusk/", "ssr embed"),
        swap_and_prepare,
    ),
    Case(
        "no labels of the source",
        "prepare",
        ("photos/day/images/00000.png", "no label", "photos/day/labels/00000.png"),
        remove("photos/day/labels"),
    ),
    Case(
        "own source without labels",
        "prepare -S prepare.source.train_labels=null",
        ("source.train_labels is null", "what labels come from"),
        own_classes_of_colours_alone,
    ),
    Case(
        "empty target",
        "prepare",
        ("photos/dusk/images", "no images", "put them there"),
        remove(*(f"photos/dusk/images/{number:05d}.png" for number in range(6, 12))),
    ),
    Case(
        "weights of another SAM size",
        "embed -S embed.teacher.weights=sam.pth -S embed.teacher.architecture=vit_l",
        ("sam.pth", "holds tiny weights", "embed.teacher.architecture is vit_l", "change one"),
        lambda: save_teacher("sam.pth"),
    ),
    Case(
        "batch size 0",
        "train -S train.batch_size=0",
        ("train.batch_size is 0", "greater than or equal to 1"),
    ),
]

MISTAKES = {
    "typo in a key": ("test_bad_params", "unknown key"),
    "typo in a value": ("test_first_day", "typo in an architecture"),
    "student's weights mistyped": ("test_first_day", "typo in the student's weights"),
    "wrong folder": ("test_bad_data", "no data folder"),
    "labels in RGB where ids are expected": ("test_first_day", "labels in RGB, ids expected"),
    "labels of ids where RGB is expected": ("test_first_day", "labels of ids, RGB expected"),
    "store of another teacher": (
        "test_bad_stores",
        "teacher's weights changed, no embed since",
    ),
    "disk full": ("test_bad_data", "test_a_full_disk_is_one_line"),
    "GPU asked for, but none": ("test_bad_training", "test_asking_for_a_gpu_that_there_is_not"),
    "params.yaml missing": ("test_bad_params", "no params file"),
    "two domains swapped": ("test_first_day", "domains swapped, no prepare since"),
    "unlabelled source": ("test_first_day", "no labels of the source"),
    "empty target": ("test_first_day", "empty target"),
    "weights file missing": ("test_bad_stores", "no teacher weights"),
    "weights of another SAM size": ("test_first_day", "weights of another SAM size"),
    "corrupt checkpoint": ("test_bad_training", "damaged checkpoint"),
    "crop larger than the images": ("test_bad_stores", "crop larger than prepare knew"),
    "batch size 0": ("test_first_day", "batch size 0"),
    "other classes in the target": ("test_bad_data", "domains of other classes"),
    "read-only results folder": (
        "test_first_day",
        "test_a_read_only_results_folder_is_one_line",
    ),
    "embed before prepare": ("test_bad_stores", "embed before prepare"),
    "train before embed": ("test_bad_stores", "train before embed"),
    "evaluate before train": ("test_bad_training", "evaluate before train"),
}
"""Mistake -> module and case, or test function, that has it."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_of_a_first_day_has_its_test(mistake: str) -> None:
    module_name, name = MISTAKES[mistake]
    module = import_module(f"tests.pipeline.{module_name}")
    cases = [case.name for case in getattr(module, "CASES", [])]
    assert name in cases or callable(getattr(module, name, None))


@pytest.mark.parametrize("case", CASES, ids=identifier)
def test_a_mistake_of_a_first_day_is_one_line(case: Case, photos: Path) -> None:
    assert_one_line_and_nothing_lost(case, photos)


@pytest.mark.parametrize("command", ["train -S train.seed=1", "evaluate"])
def test_a_read_only_results_folder_is_one_line(command: str, photos: Path) -> None:
    before = stored(photos)
    (photos / "runs").chmod(0o555)
    with obeying_permissions():
        assert_refused(command, "runs", "Permission denied", "check the path, permissions")
    assert stored(photos) == before
