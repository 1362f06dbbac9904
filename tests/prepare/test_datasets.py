"""Datasets: generated files in their exact layouts, and a user's own."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from stages.prepare.datasets import SourceConfig
from stages.prepare.datasets.camvid import CAMVID_11
from stages.prepare.datasets.dataset import Item, Listing
from stages.prepare.labels import CITYSCAPES_19, IGNORE, StoredLabel, to_train_ids
from stages.prepare.pixels import read_label
from store.errors import DataError
from tests.prepare.conftest import (
    cityscapes_config,
    config_of,
    drawn_config,
    folder_config,
    gta5_config,
    ids,
    photo,
    save,
)


def scan(config: dict[str, object]) -> Listing:
    source: SourceConfig = TypeAdapter(SourceConfig).validate_python(config)
    return source.scan(lambda done, total, what: None).sound()


ALL_TIMES = ["day", "twilight", "night"]


@pytest.mark.parametrize(
    ("kind", "keys", "trained_on", "values"),
    [
        ("gta5", {"val_list": None}, 3, (0, 13, IGNORE)),
        ("cityscapes", {}, 2, (IGNORE, 2, 18)),
        ("synthia", {}, 2, (0, 3, IGNORE)),  # road, wall, and lane markings, which have no class
        ("acdc", {"conditions": ["night"]}, 1, (IGNORE, 0, 18)),
        ("acdc", {"conditions": ["fog", "night", "rain", "snow"]}, 4, (IGNORE, 0, 18)),
        ("dark_zurich", {"train_times": ["night"]}, 1, (IGNORE, 0, 18)),
        ("dark_zurich", {"train_times": ALL_TIMES}, 3, (IGNORE, 0, 18)),
        ("bdd100k", {}, 1, (0, 18, IGNORE)),
        ("mapillary", {}, 1, (0, 5, IGNORE)),  # road, street light, unlabelled
    ],
)
def test_published_layouts_are_listed_and_their_ids_read(
    kind: str,
    keys: dict[str, object],
    trained_on: int,
    values: tuple[int, ...],
    published: Callable[[str], Path],
) -> None:
    root = published(kind)
    listing = scan(config_of(kind, root, **keys))
    assert listing.classes == CITYSCAPES_19
    assert [item.split for item in listing.items].count("train") == trained_on
    assert all((root / item.image).is_file() for item in listing.items)
    stored = read_label(root / str(listing.items[-1].label))
    assert np.array_equal(to_train_ids(stored, listing.labels), ids(*values))
    if kind == "dark_zurich":
        assert {item.label for item in listing.items[:-1]} == {None}


def test_a_missing_folder_says_what_to_download(published: Callable[[str], Path]) -> None:
    root = published("acdc")
    shutil.rmtree(root / "rgb_anon/rain/val")
    says = r"^.*rgb_anon/rain/val: there is no such folder: unpack rgb_anon_trainvaltest.*$"
    with pytest.raises(DataError, match=says):
        scan(config_of("acdc", root, conditions=["rain"]))


def test_gta5_holds_out_the_images_of_a_list(gta5: Path) -> None:
    (gta5 / "val.txt").write_text("00002.png\n00003\n")
    items = scan(gta5_config(gta5, val_list="val.txt")).items
    assert [item.split for item in items] == ["train", "val", "val"]


@pytest.mark.parametrize(("content", "message"), [("9\n", "9 is not an image"), (None, "cannot")])
def test_gta5_refuses_a_wrong_list(gta5: Path, content: str | None, message: str) -> None:
    if content is not None:
        (gta5 / "val.txt").write_text(content)
    with pytest.raises(DataError, match=rf"val\.txt: {message}"):
        scan(gta5_config(gta5, val_list="val.txt"))


def test_cityscapes_reads_train_ids_where_there_are_no_label_ids(cityscapes: Path) -> None:
    for label in cityscapes.rglob("*_labelIds.png"):
        label.rename(label.with_name(label.name.replace("labelIds", "labelTrainIds")))
        (label.parent / f"._{label.name}").touch()  # as archives of macOS leave them
    listing = scan(cityscapes_config(cityscapes))
    assert str(listing.items[0].label).endswith("_gtFine_labelTrainIds.png")
    assert listing.labels.ids[13] == 13
    assert 26 not in listing.labels.ids


def test_synthia_reads_the_train_ids_of_conversions(published: Callable[[str], Path]) -> None:
    root = published("synthia")
    for folder in (root / "RGB", root / "GT" / "LABELS"):
        (folder / "part").mkdir()
        for file in folder.glob("*.png"):
            kind = "" if folder.name == "RGB" else "_labelTrainIds"
            file.rename(folder / "part" / f"{file.stem}{kind}.png")
    listing = scan(config_of("synthia", root))
    assert listing.items[0].label == "GT/LABELS/part/0000000_labelTrainIds.png"
    assert listing.labels.ids[13] == 13


def test_mapillary_is_also_read_as_version_two_lays_it_out(
    published: Callable[[str], Path],
) -> None:
    root = published("mapillary")
    for split in ("training", "validation"):  # its archive holds both versions
        (root / split / "v1.2").mkdir()
        (root / split / "labels").rename(root / split / "v1.2" / "labels")
    (train, _) = scan(config_of("mapillary", root)).items
    assert train.label == "training/v1.2/labels/__CRyFzoDOXn6unQ6a3DnQ.png"


def test_camvid_is_listed_as_it_lies_there(camvid: Path) -> None:
    day = scan(config_of("camvid", camvid, splits={"train": "day_train", "val": "day_val"}))
    assert day.classes == CAMVID_11
    assert [item.split for item in day.items].count("train") == 305
    assert [item.split for item in day.items].count("val") == 29
    assert all((camvid / str(item.label)).is_file() for item in day.items)
    assert day.labels.ids[11] == 255


def test_own_data_may_lie_in_subfolders(own_data: Path) -> None:
    listing = scan(folder_config(own_data))
    assert listing.items == [
        Item("train", "train/images/a/1.jpg", "train/labels/a/1.png"),
        Item("train", "train/images/a/2.jpg", "train/labels/a/2.png"),
        Item("train", "train/images/b/1.jpg", "train/labels/b/1.png"),
        Item("val", "val/images/v.jpg", "val/labels/v.png"),
    ]
    assert listing.classes.names == ("lane", "rest")
    stored = StoredLabel(ids(0, 7, 8, 255))
    assert to_train_ids(stored, listing.labels).tolist() == ids(0, 1, 1, 255).tolist()


AMONG = {"train_images": ".", "train_labels": ".", "label_suffix": "_L"}


@pytest.mark.parametrize(
    ("image", "label", "keys"),
    [
        ("images/c.JPG", "labels/c.PNG", {}),
        ("images/c.png", "labels/c.tif", {}),
        ("images/s/Stra\u00dfe \u00fc.png", "labels/s/Stra\u00dfe u\u0308.png", {}),
        (
            "images/s/c_leftImg8bit.png",
            "labels/s/c_gtFine_labelIds.png",
            {"image_suffix": "_leftImg8bit", "label_suffix": "_gtFine_labelIds"},
        ),
        ("c.jpg", "c_L.png", AMONG),
        ("c.jpg", "labels/c_L.png", {**AMONG, "train_labels": "labels"}),
    ],
)
def test_labels_are_paired_whatever_their_spelling_and_place(
    tmp_path: Path, image: str, label: str, keys: dict[str, str]
) -> None:
    save(tmp_path / image, photo(1))
    save(tmp_path / label, ids(0))
    folders = {"train_images": "images", "train_labels": "labels", **keys}
    listing = scan(folder_config(tmp_path, val_images=None, val_labels=None, **folders))
    assert listing.items == [Item("train", image, label)]
    assert listing.findings == []


def test_pipes_and_other_leftovers_are_never_images_and_labels_without_one_are_said(
    own_data: Path,
) -> None:
    photos = own_data / "train" / "images"
    before = scan(folder_config(own_data)).items
    os.mkfifo(photos / "pipe.png")
    (photos / "folder.png").mkdir()
    (photos / "a" / "loop").symlink_to(own_data)
    (photos / "self.png").symlink_to("self.png")
    for folder in ("__MACOSX", ".AppleDouble", "#recycle", "a/@eaDir"):
        save(photos / folder / "x.png", photo(1))
    for name in ("._1.jpg", "Thumbs.db", "desktop.ini", "b/readme.md"):
        (photos / name).write_bytes(b"x")
    save(own_data / "train" / "labels" / "a" / "3.png", ids(0))
    save(own_data / "train" / "labels" / "a" / "1_color.png", photo(1))
    listing = scan(folder_config(own_data))
    assert listing.items == before
    assert listing.findings == [
        "train/images: passed over 11 entries that are not images: #recycle/, "
        ".AppleDouble/, ._1.jpg, ...",
        "train/labels: 1 labels without an image in train/images: 3.png; is the dataset complete?",
    ]


def test_the_last_images_are_held_out(own_data: Path) -> None:
    config = folder_config(own_data, val_images=None, val_labels=None, val_share=0.4)
    assert [item.split for item in scan(config).items] == ["train", "train", "val"]


def test_a_folder_without_images_is_an_error(own_data: Path) -> None:
    for path in (own_data / "train" / "images").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match=r"train/images: holds no images: .* path train_images$"):
        scan(folder_config(own_data))


def test_the_drawn_world_follows_its_parameters_and_its_code(tmp_path: Path) -> None:
    first = scan(drawn_config(tmp_path))
    other = scan(drawn_config(tmp_path, seed=2))
    assert {item.image for item in first.items}.isdisjoint(item.image for item in other.items)
    path = tmp_path / first.items[0].image
    drawn = path.read_bytes()
    Image.new("RGB", (96, 64)).save(path)  # what older code may have drawn
    (path.parents[2] / "drawn.json").write_text('{"code": "older"}')
    scan(drawn_config(tmp_path))
    assert path.read_bytes() == drawn
