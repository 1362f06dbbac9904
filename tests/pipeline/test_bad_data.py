"""Mistakes of a first day: data or weights that are missing, damaged or at odds, full disks."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.prepare.datasets.camvid import CAMVID_11
from stages.prepare.manifest import Manifest
from tests.faults.disk import obeying_permissions
from tests.pipeline.mistakes import (
    Case,
    assert_one_line_and_nothing_lost,
    assert_refused,
    copy,
    cut_in_half,
    identifier,
    params,
    remove,
    save_label,
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
        "typo in `random`",
        "embed -S embed.teacher.weights=randm",
        ("randm: no such weight file", "embed.teacher.weights"),
    ),
    Case(
        "typo in the student's weights",
        "train -S train.student.weights=rndom",
        (
            "train.student.weights: rndom",
            "no such file or folder",
            "not a Hugging Face id",
            "correct",
        ),
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
        "no data folder",
        "prepare",
        ("nowhere/day/images", "no such folder", "correct the path"),
        params(prepare={"source.root": "nowhere"}),
    ),
    Case(
        "truncated image",
        "prepare",
        ("photos/day/images/00001.png", "damaged", "fetch the file again"),
        cut_in_half("photos/day/images/00001.png"),
    ),
    Case(
        "two bad files",
        "prepare",
        ("photos/day/images/00001.png", "1 more: 00003.png"),
        lambda: [Path(f"photos/day/images/0000{n}.png").write_bytes(b"") for n in (1, 3)],
    ),
    Case(
        "image changed after prepare, then embed",
        "embed -S embed.teacher.seed=1",
        ("photos/day/images/00001.png", "has changed", "ssr prepare"),
        copy("photos/day/images/00002.png", "photos/day/images/00001.png"),
    ),
    Case(
        "image changed after embed, then train",
        "train -S train.seed=1 --out elsewhere",
        ("photos/d", "has changed", "ssr prepare"),
        lambda: [
            shutil.copy(path.with_name("00007.png"), path)
            for path in sorted(Path("photos/dusk/images").iterdir())
            if path.name != "00007.png"
        ],
    ),
    Case(
        "image removed after embed, then train",
        "train -S train.seed=1 --out elsewhere",
        ("photos/dusk/images", "No such file", "ssr prepare"),
        remove("photos/dusk/images"),
    ),
    Case(
        "label changed after prepare, then evaluate",
        "evaluate",
        ("photos/dusk_val/labels/00012.png", "has changed", "ssr prepare"),
        lambda: save_label("photos/dusk_val/labels/00012.png", 200),
    ),
]


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/manifest.parquet")


def test_a_full_disk_is_one_line(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Manifest, "write", full_disk)
    remove("photos/dusk_val/images/00013.png")()
    before = stored(photos)
    assert_refused("prepare", "data/manifest.parquet: No space left on device", "disk space")
    assert stored(photos) == before


@pytest.mark.parametrize("case", CASES, ids=identifier)
def test_bad_data_is_one_line(case: Case, photos: Path) -> None:
    assert_one_line_and_nothing_lost(case, photos)


@pytest.mark.parametrize("command", ["train -S train.seed=1", "evaluate"])
def test_a_read_only_results_folder_is_one_line(command: str, photos: Path) -> None:
    before = stored(photos)
    (photos / "runs").chmod(0o555)
    with obeying_permissions():
        assert_refused(command, "runs", "Permission denied", "check the path, permissions")
    assert stored(photos) == before
