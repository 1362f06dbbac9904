"""Layouts as people have them, told by names and by pairing."""

from pathlib import Path
from typing import Any

import pytest

from stages.prepare.proposed_folders import find_splits

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
        (["s1/1.jpg", "s2/1.jpg"], {"train": (".", None)}),
        (["unlabeled/1.jpg"], {"train": (".", None)}),
        (["images/1.jpg", "labels/2.png"], {"train": ("images", None)}),
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
        name: (split.images, None)
        if (pairing := split.pairing) is None
        else (split.images, pairing.labels, pairing.image_suffix, pairing.label_suffix)
        for name, split in find_splits(tmp_path).items()
    }
    assert splits == found
