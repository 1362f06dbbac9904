"""Proposals for own data: folders told by names and pairing, classes from what labels hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.prepare.labels import Color
from stages.prepare.proposal import (
    MOST_LABELS,
    ProposedClasses,
    about_sampling,
    find_splits,
    propose_classes,
    sampling_for,
    voc_color,
)
from tests.prepare.conftest import Prepare, folder_config, ids, photo, save


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


def test_values_of_rare_class_sampling_far_from_the_data_are_spoken_of(
    prepare: Prepare, own_data: Path
) -> None:
    """Images of 30x20 have 200 pixels of each class at most."""
    manifest = prepare(folder_config(own_data)).manifest
    said = about_sampling(manifest, min_pixels=3000, min_crop_ratio=0.5)
    assert said is not None
    assert "images of 30x20, used at 30x20, set min_pixels 0 and min_crop_ratio 1.1" in said
    assert about_sampling(manifest, min_pixels=0, min_crop_ratio=0.5) is None
    assert about_sampling(manifest, min_pixels=1, min_crop_ratio=9) is not None


def test_ids_are_counted_and_void_is_left_out(tmp_path: Path) -> None:
    found = proposed(tmp_path, ids(0, 4, 255), ids(0, 4, 4))
    assert [(c.name, c.ids) for c in found.classes] == [("class_0", (0,)), ("class_4", (4,))]
    assert [c.share for c in found.classes] == pytest.approx([1 / 3, 1 / 2])
    assert (found.ignore_ids, found.ignore_colors) == ((255,), ())
    assert len({c.color for c in found.classes}) == 2


def test_a_mask_of_two_values_has_two_classes(tmp_path: Path) -> None:
    assert [c.ids for c in proposed(tmp_path, ids(0, 255)).classes] == [(0,), (255,)]
    black_and_white = proposed(tmp_path, painted((0, 0, 0), (255, 255, 255)))
    assert [c.color for c in black_and_white.classes] == [(0, 0, 0), (255, 255, 255)]


def test_ids_are_named_after_cityscapes_where_the_file_says_so(tmp_path: Path) -> None:
    found = proposed(tmp_path, ids(3, 7, 26), suffix="_gtFine_labelIds")
    assert [c.name for c in found.classes] == ["road", "car"]
    assert found.ignore_ids == (3,)


@pytest.mark.parametrize(
    ("colors", "names", "ignored"),
    [
        (((128, 64, 128), (244, 35, 232), (0, 0, 0)), ["road", "sidewalk"], ((0, 0, 0),)),
        (((1, 2, 3), (4, 5, 6), (0, 0, 0)), ["class_0", "class_1"], ((0, 0, 0),)),
    ],
    ids=["Cityscapes", "of no dataset"],
)
def test_colours_are_named_after_a_palette(
    tmp_path: Path, colors: tuple[Color, ...], names: list[str], ignored: tuple[Color, ...]
) -> None:
    found = proposed(tmp_path, painted(*colors))
    assert [c.name for c in found.classes] == names
    assert found.ignore_colors == ignored
    assert all(c.ids == () for c in found.classes)


def test_colours_of_voc_are_those_of_its_development_kit() -> None:
    known = {0: (0, 0, 0), 1: (128, 0, 0), 8: (64, 0, 0), 15: (192, 128, 128), 255: (224, 224, 192)}
    assert {index: voc_color(index) for index in known} == known
    assert len({voc_color(index) for index in range(256)}) == 256


@pytest.mark.parametrize(
    ("label", "reason"), [(photo(1), "blended or compressed"), (ids(3), "too few values")]
)
def test_what_makes_no_table_is_said(tmp_path: Path, label: NDArray[np.uint8], reason: str) -> None:
    found = proposed(tmp_path, label)
    assert found.classes == ()
    assert reason in found.said[-1]


def test_not_all_of_many_files_are_looked_at(tmp_path: Path) -> None:
    save(tmp_path / "0.png", ids(0, 1))
    found = propose_classes([tmp_path / "0.png"] * (3 * MOST_LABELS) + [tmp_path / "gone.png"])
    assert found.said == (
        f"looked at {MOST_LABELS - 1} of {3 * MOST_LABELS + 1} label files",
        "1 more cannot be read: `ssr prepare` says why",
    )


CITYSCAPES = [
    f"{kind}/{split}/{city}_1_{ending}.png"
    for split, city in (("train", "aachen/a"), ("train", "ulm/u"), ("val", "lindau/l"))
    for kind, ending in (
        ("leftImg8bit", "leftImg8bit"),
        *(("gtFine", f"gtFine_{e}") for e in ("color", "instanceIds", "labelIds", "labelTrainIds")),
    )
]
SPLIT = {"train": ("train/images", "train/labels", "", "")}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["train/images/a.jpg", "train/labels/a.png"], SPLIT),
        (["train/images/s 1/a.jpg", "train/labels/s 1/a.png"], SPLIT),
        (
            CITYSCAPES,
            {
                split: (
                    f"leftImg8bit/{split}",
                    f"gtFine/{split}",
                    "_leftImg8bit",
                    "_gtFine_labelIds",
                )
                for split in ("train", "val")
            },
        ),
        (
            ["701_StillsRaw_full/1.png", "LabeledApproved_full/1_L.png"],
            {"train": ("701_StillsRaw_full", "LabeledApproved_full", "", "_L")},
        ),
        (
            [f"{s}{kind}/1.png" for s in ("train", "val", "test") for kind in ("", "annot")],
            {split: (split, f"{split}annot", "", "") for split in ("train", "val", "test")},
        ),
        (
            [
                f"{k}/{s}/1.png"
                for k in ("images", "annotations")
                for s in ("training", "validation")
            ],
            {
                split: (f"images/{name}", f"annotations/{name}", "", "")
                for split, name in (("train", "training"), ("val", "validation"))
            },
        ),
        (["a.jpg", "a_mask.png", "b.jpg", "b_mask.png"], {"train": (".", ".", "", "_mask")}),
        (["a.jpg", "labels/a.png"], {"train": (".", "labels", "", "")}),
        (["rgb/1.png", "depth/1.png", "masks/1.png"], {"train": ("rgb", "masks", "", "")}),
        (["s1/1.jpg", "s2/1.jpg"], {"train": (".", None, "", "")}),
        (["unlabeled/1.jpg"], {"train": (".", None, "", "")}),
        (["images/1.jpg", "labels/2.png"], {"train": ("images", None, "", "")}),
        (["readme.txt"], {}),
    ],
)
def test_folders_of_images_and_labels_are_found(
    tmp_path: Path, files: list[str], found: dict[str, tuple[Any, ...]]
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    splits = {
        name: (split.images, split.labels, split.image_suffix, split.label_suffix)
        for name, split in find_splits(tmp_path).items()
    }
    assert splits == found
