"""Datasets: generated files in their exact layouts, and a user's own."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
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
    drawn_config,
    folder_config,
    gta5_config,
    ids,
    photo,
    save,
    save_paletted,
)


def scan(config: dict[str, object]) -> Listing:
    source: SourceConfig = TypeAdapter(SourceConfig).validate_python(config)
    return source.scan(lambda done, total, what: None).sound()


def camvid_config(root: Path, train: str, val: str | None) -> dict[str, object]:
    splits = {"train": train, "val": val}
    return {"kind": "camvid", "root": str(root), "fit_px": None, "splits": splits}


def test_gta5_pairs_images_with_labels_and_ignores_converted_copies(gta5: Path) -> None:
    save(gta5 / "labels" / "00001_labelTrainIds.png", ids(0))
    listing = scan(gta5_config(gta5))
    assert listing.classes == CITYSCAPES_19
    assert listing.items == [
        Item("train", f"images/0000{i}.png", f"labels/0000{i}.png") for i in (1, 2, 3)
    ]


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
    listing = scan(cityscapes_config(cityscapes))
    assert str(listing.items[0].label).endswith("_gtFine_labelTrainIds.png")
    assert listing.labels.ids[13] == 13
    assert 26 not in listing.labels.ids


def test_camvid_is_listed_as_it_lies_there(camvid: Path) -> None:
    day = scan(camvid_config(camvid, "day_train", "day_val"))
    assert day.classes == CAMVID_11
    assert [item.split for item in day.items].count("train") == 305
    assert [item.split for item in day.items].count("val") == 29
    assert all((camvid / str(item.label)).is_file() for item in day.items)
    assert day.labels.ids[11] == 255
    assert len(scan(camvid_config(camvid, "dusk_train", None)).items) == 62


def test_own_data_may_lie_in_subfolders(own_data: Path) -> None:
    save(own_data / "train" / "images" / ".thumbnails" / "x.png", photo(1))
    (own_data / "train" / "images" / ".DS_Store").write_bytes(b"x")
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


@pytest.mark.parametrize(
    ("image", "label", "keys"),
    [
        ("c.JPG", "c.PNG", {}),
        ("c.png", "c.tif", {}),
        ("s/Stra\u00dfe \u00fc.png", "s/Stra\u00dfe u\u0308.png", {}),
        ("c.jpg", "c_L.png", {"label_suffix": "_L"}),
        (
            "s/c_leftImg8bit.png",
            "s/c_gtFine_labelIds.png",
            {"image_suffix": "_leftImg8bit", "label_suffix": "_gtFine_labelIds"},
        ),
    ],
)
def test_labels_are_paired_whatever_their_spelling(
    tmp_path: Path, image: str, label: str, keys: dict[str, str]
) -> None:
    save(tmp_path / "images" / image, photo(1))
    save(tmp_path / "labels" / label, ids(0))
    folders = {"train_images": "images", "train_labels": "labels"}
    config = folder_config(tmp_path, val_images=None, val_labels=None, **folders, **keys)
    listing = scan(config)
    assert listing.items == [Item("train", f"images/{image}", f"labels/{label}")]
    assert listing.findings == []


@pytest.mark.parametrize("labels", [".", "labels"])
def test_labels_may_lie_among_the_images_or_below_them(tmp_path: Path, labels: str) -> None:
    save(tmp_path / "c.jpg", photo(1))
    save(tmp_path / labels / "c_L.png", ids(0))
    folders = {"train_images": ".", "train_labels": labels, "label_suffix": "_L"}
    listing = scan(folder_config(tmp_path, val_images=None, val_labels=None, **folders))
    label = (Path(labels) / "c_L.png").as_posix()
    assert listing.items == [Item("train", "c.jpg", label)]


def test_pipes_and_other_leftovers_are_never_images(own_data: Path) -> None:
    photos = own_data / "train" / "images"
    before = scan(folder_config(own_data)).items
    os.mkfifo(photos / "pipe.png")
    (photos / "folder.png").mkdir()
    (photos / "a" / "loop").symlink_to(own_data)
    for folder in ("__MACOSX", ".AppleDouble", "#recycle", "a/@eaDir"):
        save(photos / folder / "x.png", photo(1))
    for name in ("._1.jpg", "Thumbs.db", "desktop.ini", "b/readme.md"):
        (photos / name).write_bytes(b"x")
    listing = scan(folder_config(own_data))
    assert listing.items == before
    assert listing.findings == [
        "train/images: passed over 10 entries that are not images: #recycle/, "
        ".AppleDouble/, ._1.jpg, ...",
    ]


def test_the_last_images_are_held_out(own_data: Path) -> None:
    config = folder_config(own_data, val_images=None, val_labels=None, val_share=0.4)
    assert [item.split for item in scan(config).items] == ["train", "train", "val"]


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda images: images.rename(images.with_name("moved")), "there is no such folder"),
        (_remove, "holds no images"),
    ],
)
def test_a_folder_that_is_missing_or_empty_is_an_error(
    own_data: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(own_data / "train" / "images")
    with pytest.raises(DataError, match=rf"train/images.*: {message}") as info:
        scan(folder_config(own_data))
    assert "\n" not in str(info.value)


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


def config(kind: str, root: Path, **keys: object) -> dict[str, Any]:
    return {"kind": kind, "root": str(root), "fit_px": None} | keys


def train_ids(listing: Listing, root: Path, item: Item) -> NDArray[np.uint8]:
    return to_train_ids(read_label(root / str(item.label)), listing.labels)


@pytest.fixture
def synthia(tmp_path: Path) -> Path:
    root = tmp_path / "synthia"
    for number in (0, 1):
        save(root / "RGB" / f"{number:07d}.png", photo(number))
        deep = np.zeros((20, 30, 3), np.uint16)
        deep[..., 2], deep[..., 1] = ids(3, 21, 22), 40000  # blue, green, red: instances, class
        (root / "GT" / "LABELS").mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / "GT" / "LABELS" / f"{number:07d}.png"), deep)
        save(root / "GT" / "COLOR" / f"{number:07d}.png", photo(9))
    return root


@pytest.fixture
def acdc(tmp_path: Path) -> Path:
    root = tmp_path / "acdc"
    for seed, condition in enumerate(("fog", "night", "rain", "snow")):
        for split, drive in (("train", "GOPR0475"), ("val", "GOPR0476")):
            frame = f"{drive}_frame_{seed:06d}"
            save(root / "rgb_anon" / condition / split / drive / f"{frame}_rgb_anon.png", photo(1))
            labels = root / "gt" / condition / split / drive
            save(labels / f"{frame}_gt_labelIds.png", ids(0, 7, 33))
            save(labels / f"{frame}_gt_labelTrainIds.png", ids(255, 0, 18))
            save(labels / f"{frame}_gt_labelColor.png", photo(3))
        clear = root / "rgb_anon" / condition / "train_ref" / "GOPR0475"
        save(clear / "GOPR0475_frame_000001_rgb_ref_anon.png", photo(4))
        test = root / "rgb_anon" / condition / "test" / "GOPR0477"
        save(test / "GOPR0477_frame_000001_rgb_anon.png", photo(5))
    return root


@pytest.fixture
def dark_zurich(tmp_path: Path) -> Path:
    root = tmp_path / "dark_zurich"
    for time in ("day", "twilight", "night"):
        drive = root / "rgb_anon" / "train" / time / "GOPR0345"
        save(drive / f"GOPR0345_frame_00000{len(time)}_rgb_anon.png", photo(len(time)))
    frame = "GOPR0356_frame_000321"
    save(root / "rgb_anon" / "val" / "night" / "GOPR0356" / f"{frame}_rgb_anon.png", photo(1))
    reference = root / "rgb_anon" / "val_ref" / "day" / "GOPR0356"
    save(reference / f"{frame}_ref_rgb_anon.png", photo(2))
    labels = root / "gt" / "val" / "night" / "GOPR0356"
    save(labels / f"{frame}_gt_labelIds.png", ids(0, 7, 33))
    save(labels / f"{frame}_gt_labelTrainIds.png", ids(255, 0, 18))
    return root


@pytest.fixture
def bdd100k(tmp_path: Path) -> Path:
    root = tmp_path / "bdd100k"
    for split, name in (("train", "0004a4c0-d4dff0ad"), ("val", "7d06fefd-f7be05a6")):
        save(root / "images" / "10k" / split / f"{name}.jpg", photo(1))
        save(root / "labels" / "sem_seg" / "masks" / split / f"{name}.png", ids(0, 18, 255))
        save(root / "labels" / "sem_seg" / "colormaps" / split / f"{name}.png", photo(2))
    return root


@pytest.fixture
def mapillary(tmp_path: Path) -> Path:
    root = tmp_path / "mapillary"
    for split, name in (("training", "__CRyFzoDOXn6unQ6a3DnQ"), ("validation", "_1Gn_xkw7sa_i9")):
        save(root / split / "images" / f"{name}.jpg", photo(1))
        save_paletted(root / split / "labels" / f"{name}.png", ids(13, 44, 65))
        save(root / split / "instances" / f"{name}.png", ids(1))
    return root


@pytest.mark.parametrize(
    ("kind", "keys", "trained_on", "values"),
    [
        ("cityscapes", {}, 2, (IGNORE, 2, 18)),
        ("synthia", {}, 2, (0, 3, IGNORE)),  # road, wall, and lane markings, which have no class
        ("acdc", {"conditions": ["night"]}, 1, (IGNORE, 0, 18)),
        ("acdc", {"conditions": ["fog", "night", "rain", "snow"]}, 4, (IGNORE, 0, 18)),
        ("dark_zurich", {"train_times": ["night"]}, 1, (IGNORE, 0, 18)),
        ("dark_zurich", {"train_times": ["day", "twilight", "night"]}, 3, (IGNORE, 0, 18)),
        ("bdd100k", {}, 1, (0, 18, IGNORE)),
        ("mapillary", {}, 1, (0, 5, IGNORE)),  # road, street light, unlabelled
    ],
)
def test_published_layouts_are_listed_and_their_ids_read(
    kind: str,
    keys: dict[str, object],
    trained_on: int,
    values: tuple[int, ...],
    request: pytest.FixtureRequest,
) -> None:
    root: Path = request.getfixturevalue(kind)
    listing = scan(config(kind, root, **keys))
    assert listing.classes == CITYSCAPES_19
    assert [item.split for item in listing.items].count("train") == trained_on
    assert all((root / item.image).is_file() for item in listing.items)
    last = listing.items[-1]
    assert np.array_equal(train_ids(listing, root, last), ids(*values))
    if kind == "dark_zurich":
        assert {item.label for item in listing.items[:-1]} == {None}


def test_mapillary_is_also_read_as_version_two_lays_it_out(mapillary: Path) -> None:
    for split in ("training", "validation"):  # its archive holds both versions
        (mapillary / split / "v1.2").mkdir()
        (mapillary / split / "labels").rename(mapillary / split / "v1.2" / "labels")
    (train, _) = scan(config("mapillary", mapillary)).items
    assert train.label == "training/v1.2/labels/__CRyFzoDOXn6unQ6a3DnQ.png"


@pytest.mark.parametrize(
    ("kind", "keys", "lost", "download"),
    [
        ("synthia", {}, "RGB", "unpack SYNTHIA-RAND-CITYSCAPES"),
        ("synthia", {}, "GT/LABELS", "unpack SYNTHIA-RAND-CITYSCAPES"),
        ("acdc", {"conditions": ["rain"]}, "rgb_anon/rain/val", "unpack rgb_anon_trainvaltest"),
        (
            "dark_zurich",
            {"train_times": ["day"]},
            "rgb_anon/train/day",
            "unpack Dark_Zurich_train_anon",
        ),
        ("bdd100k", {}, "images/10k/train", "unpack `10K Images`"),
        ("mapillary", {}, "validation/images", "unpack Mapillary Vistas"),
        ("gta5", {"val_list": None}, "images", "unpack the images and labels of GTA5"),
        ("cityscapes", {}, "leftImg8bit/train", "unpack leftImg8bit_trainvaltest"),
    ],
)
def test_a_missing_folder_says_what_to_download(
    kind: str, keys: dict[str, object], lost: str, download: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(kind)
    shutil.rmtree(root / lost)
    with pytest.raises(DataError, match=rf"{lost}: there is no such folder: {download}") as info:
        scan(config(kind, root, **keys))
    assert "root" in str(info.value)
    assert "\n" not in str(info.value)
