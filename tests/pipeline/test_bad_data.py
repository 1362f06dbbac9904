"""Images and labels that are missing, damaged or at odds."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from stages.prepare.manifest import Manifest
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
    write,
)
from tests.pipeline.workplace import stored

CASES = [
    Case(
        "no data folder",
        "prepare",
        ("nowhere/day/images", "no such folder", "correct the path"),
        params(prepare={"source.root": "nowhere"}),
    ),
    Case(
        "no images in the folder",
        "prepare",
        ("photos/day/images", "no images"),
        remove(*(f"photos/day/images/0000{number}.png" for number in range(6))),
    ),
    Case(
        "truncated image",
        "prepare",
        ("photos/day/images/00001.png", "damaged", "fetch the file again"),
        cut_in_half("photos/day/images/00001.png"),
    ),
    Case(
        "empty image",
        "prepare",
        ("photos/day/images/00001.png", "not an image", "remove it"),
        write("", "photos/day/images/00001.png"),
    ),
    Case(
        "text named like an image",
        "prepare",
        ("photos/day/images/00001.png", "not an image", "remove it"),
        write("a street by day", "photos/day/images/00001.png"),
    ),
    Case(
        "two bad files",
        "prepare",
        ("photos/day/images/00001.png", "1 more: 00003.png"),
        lambda: [Path(f"photos/day/images/0000{n}.png").write_bytes(b"") for n in (1, 3)],
    ),
    Case(
        "label of another size",
        "prepare",
        ("photos/day/labels/00001.png", "128x32", "128x64", "exclude the image"),
        lambda: save_label("photos/day/labels/00001.png", 0, (32, 128)),
    ),
    Case(
        "label id outside the table",
        "prepare",
        ("photos/day/labels/00001.png", "200", "not in the class table", "correct the label"),
        lambda: save_label("photos/day/labels/00001.png", 200),
    ),
    Case(
        "truncated label",
        "prepare",
        ("photos/day/labels/00001.png", "damaged", "fetch the file again"),
        cut_in_half("photos/day/labels/00001.png"),
    ),
    Case(
        "image without label in the source",
        "prepare",
        ("photos/day/images/00001.png", "no label", "photos/day/labels/00001.png", "exclude"),
        remove("photos/day/labels/00001.png"),
    ),
    Case(
        "two images of one name",
        "prepare",
        ("00001.png", "00001.jpg", "same name", "rename or remove"),
        copy("photos/day/images/00002.png", "photos/day/images/00001.jpg"),
    ),
    Case(
        "excluded image that there is not",
        "prepare",
        ("prepare.source.exclude", "day/images/9", "photos", "without suffix"),
        params(prepare={"source.exclude": ["day/images/9"]}),
    ),
    Case(
        "domains of other classes",
        "prepare",
        ("same classes", "class 1 is building in source and road in target"),
        params(
            prepare={
                "target": {
                    "kind": "drawn",
                    "root": "data/drawn",
                    "style": "dusk",
                    "strength": 1.0,
                    "seed": 2,
                    "width_px": 128,
                    "height_px": 64,
                    "fit_px": None,
                    "train": 2,
                    "val": 1,
                }
            }
        ),
    ),
    # after prepare
    Case(
        "image changed after prepare, then embed",
        "embed -S embed.teacher.seed=1",
        ("photos/day/images/00001.png", "has changed", "ssr prepare"),
        copy("photos/day/images/00002.png", "photos/day/images/00001.png"),
    ),
    Case(
        "image changed after embed, then train",
        "train -S train.seed=1",
        ("photos/d", "has changed", "ssr prepare"),
        lambda: [
            shutil.copy(path.with_name("00007.png"), path)
            for path in sorted(Path("photos/dusk/images").iterdir())
            if path.name != "00007.png"
        ],
    ),
    Case(
        "image removed after embed, then train",
        "train -S train.seed=1",
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
