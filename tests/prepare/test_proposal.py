"""Proposals for own data: folders told by names and pairing, classes from what labels hold."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.prepare.labels import Color
from stages.prepare.proposal import (
    ProposedClasses,
    find_splits,
    propose_classes,
    sampling_for,
)
from tests.prepare.conftest import ids, photo, save


def proposed(folder: Path, *labels: NDArray[np.uint8], suffix: str = "") -> ProposedClasses:
    files = [folder / f"{place}.png" for place in range(len(labels))]
    for file, label in zip(files, labels, strict=True):
        save(file, label)
    return propose_classes(files, suffix=suffix)


def painted(*colors: Color) -> NDArray[np.uint8]:
    return np.array(colors, np.uint8)[ids(*range(len(colors)))]


def test_rare_class_sampling_is_as_published_for_gta5_in_daformer_and_hrda() -> None:
    assert sampling_for((1052, 1914), (720, 1280)) == (3000, 0.5)
    assert sampling_for((1052, 1914), (1440, 2560)) == (3000, 2.0)
    assert sampling_for((360, 480), (360, 480)) == (260, 1.1)


def test_ids_are_named_after_cityscapes_where_the_file_says_so(tmp_path: Path) -> None:
    found = proposed(tmp_path, ids(3, 7, 26), suffix="_gtFine_labelIds")
    assert [c.name for c in found.classes] == ["road", "car"]
    assert found.ignore_ids == [3]


@pytest.mark.parametrize(
    ("colors", "names", "ignored"),
    [
        (((128, 64, 128), (244, 35, 232), (0, 0, 0)), ["road", "sidewalk"], [(0, 0, 0)]),
        (((1, 2, 3), (4, 5, 6), (0, 0, 0)), ["class_0", "class_1"], [(0, 0, 0)]),
    ],
    ids=["Cityscapes", "of no dataset"],
)
def test_colours_are_named_after_a_palette(
    tmp_path: Path, colors: tuple[Color, ...], names: list[str], ignored: list[Color]
) -> None:
    found = proposed(tmp_path, painted(*colors))
    assert [c.name for c in found.classes] == names
    assert found.ignore_colors == ignored
    assert all(c.ids == () for c in found.classes)


@pytest.mark.parametrize(
    ("label", "reason"), [(photo(1), "blended or compressed"), (ids(3), "too few values")]
)
def test_what_makes_no_table_is_said(tmp_path: Path, label: NDArray[np.uint8], reason: str) -> None:
    found = proposed(tmp_path, label)
    assert found.classes == []
    assert reason in found.said[-1]


ENDINGS = ("color", "instanceIds", "labelIds", "labelTrainIds")
CITYSCAPES = " ".join(
    f"leftImg8bit/{name}_leftImg8bit.png "
    + " ".join(f"gtFine/{name}_gtFine_{e}.png" for e in ENDINGS)
    for name in ("train/aachen/a_1", "train/ulm/u_1", "val/lindau/l_1")
)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ("train/images/s_1/a.jpg train/labels/s_1/a.png", ["train: train/images, train/labels"]),
        (
            CITYSCAPES,
            [
                f"{s}: leftImg8bit/{s} *_leftImg8bit, gtFine/{s} *_gtFine_labelIds"
                for s in ("train", "val")
            ],
        ),
        (
            "701_StillsRaw_full/1.png LabeledApproved_full/1_L.png",
            ["train: 701_StillsRaw_full, LabeledApproved_full *_L"],
        ),
        (
            "train/1.png trainannot/1.png val/1.png valannot/1.png test/1.png testannot/1.png",
            ["train: train, trainannot", "val: val, valannot", "test: test, testannot"],
        ),
        (
            "images/training/1.png annotations/training/1.png images/validation/2.png",
            ["train: images/training, annotations/training", "val: images/validation, None"],
        ),
        ("a.jpg a_mask.png b.jpg b_mask.png", ["train: ., . *_mask"]),
        ("a.jpg labels/a.png", ["train: ., labels"]),
        ("rgb/1.png depth/1.png masks/1.png", ["train: rgb, masks"]),
        ("s1/1.jpg s2/1.jpg", ["train: ., None"]),
        ("images/1.jpg labels/2.png", ["train: images, None"]),
        ("readme.txt", []),
    ],
)
def test_folders_of_images_and_labels_are_found(
    tmp_path: Path, files: str, found: list[str]
) -> None:
    for file in files.split():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()

    def named(folder: str | None, suffix: str) -> str:
        return f"{folder} *{suffix}" if suffix else f"{folder}"

    assert found == [
        f"{name}: {named(s.images, s.image_suffix)}, {named(s.labels, s.label_suffix)}"
        for name, s in find_splits(tmp_path).items()
    ]
