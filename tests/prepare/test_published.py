"""SYNTHIA, ACDC, Dark Zurich, BDD100K and Mapillary: generated files in their exact layouts."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

from stages.prepare.datasets import SourceConfig
from stages.prepare.datasets.listing import Item, Listing
from stages.prepare.datasets.mapillary import MAPILLARY_IDS, NAMES
from stages.prepare.labels import CITYSCAPES_19, IGNORE
from stages.prepare.pixels import read_label
from stages.prepare.train_ids import to_train_ids
from store.errors import DataError
from tests.prepare.conftest import Prepare, cityscapes_config, ids, photo, save, save_paletted

# Of `tools/convert_datasets/synthia.py` of DAFormer: stored id -> train id.
SYNTHIA_OF_DAFORMER = {
    **{3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12},
    **{8: 13, 18: 14, 19: 15, 20: 16, 12: 17, 11: 18},
}


def config(kind: str, root: Path, **keys: object) -> dict[str, Any]:
    return {"kind": kind, "root": str(root), "fit_px": None} | keys


def scan(values: dict[str, Any]) -> Listing:
    source: SourceConfig = TypeAdapter(SourceConfig).validate_python(values)
    return source.scan(lambda done, total, what: None).sound()


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


def test_synthia_is_all_for_training(synthia: Path) -> None:
    listing = scan(config("synthia", synthia))
    assert listing.classes == CITYSCAPES_19
    assert listing.items == tuple(
        Item("train", f"RGB/000000{i}.png", f"GT/LABELS/000000{i}.png") for i in (0, 1)
    )
    # road, wall, and lane markings, which have no class
    assert np.array_equal(train_ids(listing, synthia, listing.items[0]), ids(0, 3, IGNORE))


def test_synthia_ids_are_those_of_daformer(synthia: Path) -> None:
    table = scan(config("synthia", synthia)).labels.ids
    assert {s: k for s, k in table.items() if k != IGNORE} == SYNTHIA_OF_DAFORMER
    assert sorted(table) == list(range(23))


@pytest.mark.parametrize("raw_too", [False, True])
def test_synthia_takes_converted_labels_where_there_are_no_others(
    synthia: Path, raw_too: bool
) -> None:
    for label in (synthia / "GT" / "LABELS").glob("*.png"):
        save(label.with_name(f"{label.stem}_labelTrainIds.png"), ids(0, 3, 255))
        if not raw_too:
            label.unlink()
    listing = scan(config("synthia", synthia))
    ending = ".png" if raw_too else "_labelTrainIds.png"
    assert listing.items[1].label == f"GT/LABELS/0000001{ending}"
    assert np.array_equal(train_ids(listing, synthia, listing.items[1]), ids(0, 3, IGNORE))


def test_synthia_to_cityscapes_is_one_manifest(
    prepare: Prepare, synthia: Path, cityscapes: Path
) -> None:
    manifest = prepare(config("synthia", synthia), cityscapes_config(cityscapes)).manifest
    assert len(manifest.classes) == 19
    pixels = manifest.records[0].class_pixels
    assert pixels is not None
    assert {k: n for k, n in enumerate(pixels) if n} == {0: 200, 3: 200}


def test_acdc_takes_the_conditions_that_are_named(acdc: Path) -> None:
    everything = scan(config("acdc", acdc, conditions=["fog", "night", "rain", "snow"]))
    assert [item.split for item in everything.items] == ["train"] * 4 + ["val"] * 4
    night = scan(config("acdc", acdc, conditions=["night"]))
    frame = "night/train/GOPR0475/GOPR0475_frame_000001"
    assert night.items[0] == Item(
        "train", f"rgb_anon/{frame}_rgb_anon.png", f"gt/{frame}_gt_labelIds.png"
    )
    assert len(night.items) == 2


def test_dark_zurich_trains_without_labels(dark_zurich: Path) -> None:
    night = scan(config("dark_zurich", dark_zurich, train_times=["night"]))
    train, val = night.items
    assert train == Item(
        "train", "rgb_anon/train/night/GOPR0345/GOPR0345_frame_000005_rgb_anon.png", None
    )
    assert val.image == "rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png"
    assert val.label == "gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelIds.png"
    every = scan(config("dark_zurich", dark_zurich, train_times=["day", "twilight", "night"]))
    assert [item.split for item in every.items] == ["train"] * 3 + ["val"]


def test_dark_zurich_is_a_target(prepare: Prepare, cityscapes: Path, dark_zurich: Path) -> None:
    target = config("dark_zurich", dark_zurich, train_times=["night"])
    splits = prepare(cityscapes_config(cityscapes), target).splits
    assert [(s.split, s.images, s.labelled) for s in splits if s.domain == "target"] == [
        ("train", 1, 0),
        ("val", 1, 1),
    ]


@pytest.mark.parametrize("kept", ["labelIds", "labelTrainIds"])
@pytest.mark.parametrize("kind", ["acdc", "dark_zurich"])
def test_ids_and_train_ids_mean_the_same(
    kind: str, kept: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(kind)
    keys = {"conditions": ["fog"]} if kind == "acdc" else {"train_times": ["night"]}
    for label in (root / "gt").rglob("*.png"):
        if not label.stem.endswith(f"_{kept}"):
            label.unlink()
    listing = scan(config(kind, root, **keys))
    assert np.array_equal(train_ids(listing, root, listing.items[-1]), ids(IGNORE, 0, 18))


def test_bdd100k_stores_train_ids(bdd100k: Path) -> None:
    listing = scan(config("bdd100k", bdd100k))
    assert [item.split for item in listing.items] == ["train", "val"]
    assert listing.items[1] == Item(
        "val",
        "images/10k/val/7d06fefd-f7be05a6.jpg",
        "labels/sem_seg/masks/val/7d06fefd-f7be05a6.png",
    )
    assert np.array_equal(train_ids(listing, bdd100k, listing.items[1]), ids(0, 18, IGNORE))


@pytest.mark.parametrize("newer", [False, True])
def test_mapillary_reads_the_palettes_ids(mapillary: Path, newer: bool) -> None:
    if newer:  # the archive of v2.0 holds both versions
        for split in ("training", "validation"):
            (mapillary / split / "v1.2").mkdir()
            (mapillary / split / "labels").rename(mapillary / split / "v1.2" / "labels")
    listing = scan(config("mapillary", mapillary))
    assert [item.split for item in listing.items] == ["train", "val"]
    assert listing.items[0].image == "training/images/__CRyFzoDOXn6unQ6a3DnQ.jpg"
    # road, street light, unlabelled
    assert np.array_equal(train_ids(listing, mapillary, listing.items[0]), ids(0, 5, IGNORE))


def test_mapillary_ids_are_those_of_the_evaluations(shared: Path) -> None:
    official = json.loads((shared / "spec" / "tables" / "mapillary_v12_to_19.json").read_text())
    assert list(NAMES) == official["names"]
    assert [MAPILLARY_IDS.ids[stored] for stored in range(66)] == official["train_id"]


def test_colours_are_no_ids_of_mapillary(prepare: Prepare, mapillary: Path) -> None:
    label = next((mapillary / "training" / "labels").glob("*.png"))
    save(label, photo(1))
    with pytest.raises(DataError, match=r"RGB colours, but this dataset stores class ids"):
        prepare(config("mapillary", mapillary))


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("synthia", {}),
        ("acdc", {"conditions": ["rain"]}),
        ("dark_zurich", {"train_times": ["day"]}),
        ("bdd100k", {}),
        ("mapillary", {}),
        ("gta5", {"val_list": None}),
        ("cityscapes", {}),
    ],
)
def test_forks_of_another_system_are_no_files_of_a_dataset(
    kind: str, keys: dict[str, object], request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(kind)
    before = scan(config(kind, root, **keys))
    for path in [path for path in root.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"x")
        path.with_name(f"._{path.stem}_labelIds.png").write_bytes(b"x")
    after = scan(config(kind, root, **keys))
    assert (after.items, after.labels) == (before.items, before.labels)
    assert all("passed over" in finding for finding in after.findings)


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
