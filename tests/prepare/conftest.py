"""Datasets in the exact layouts of their publishers, a few tiny files each, and a user's own."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stages.prepare.stage import PrepareConfig, PrepareResult, run

Prepare = Callable[..., PrepareResult]

SIZE = (20, 30)
"""Height and width of the generated images."""


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """Run the stage on `source` and `target`, given as in params.yaml."""

    def call(
        source: dict[str, Any],
        target: dict[str, Any] | None = None,
        *,
        pad_to_px: int = 32,
        on_bad_image: str = "fail",
        progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    ) -> PrepareResult:
        keys = {"pad_to_px": pad_to_px, "on_bad_image": on_bad_image}
        config = PrepareConfig.model_validate({"source": source, "target": target, **keys})
        out = tmp_path / "out"
        return run(config, out=out / "m.parquet", cache=out / "scan.cache", progress=progress)

    return call


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_paletted(path: Path, ids: NDArray[np.uint8]) -> None:
    """Save ids as GTA5 does: a palette image whose colours say nothing about the ids."""
    label = Image.fromarray(ids).convert("P")
    label.putdata(ids.ravel().tolist())
    label.putpalette([255 - i // 3 for i in range(768)])
    path.parent.mkdir(parents=True, exist_ok=True)
    label.save(path)


def save_deep(path: Path, ids: NDArray[np.uint8]) -> None:
    """Save ids as SYNTHIA does: the red of 16-bit colours, whose green tells instances apart."""
    deep = np.zeros((*ids.shape, 3), np.uint16)
    deep[..., 2], deep[..., 1] = ids, 40000  # OpenCV's order is blue, green, red
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), deep)


def photo(seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def ids(*values: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A label of equal vertical bands, one per value, the last one taking what is left."""
    columns = np.minimum(np.arange(size[1]) // (size[1] // len(values)), len(values) - 1)
    return np.broadcast_to(np.array(values, np.uint8)[columns], size).copy()


def _photo(path: Path) -> None:
    save(path, photo(sum(path.name.encode())))


def _ids(*values: int, how: Callable[[Path, NDArray[np.uint8]], None] = save) -> "Save":
    return lambda path: how(path, ids(*values))


Save = Callable[[Path], None]
_CITIES: Final = ("train/aachen/aachen", "train/ulm/ulm", "val/lindau/lindau")
_CONDITIONS: Final = ("fog", "night", "rain", "snow")
_ACDC: Final = [f"{c}/{s}/GOPR0475/{c}" for c in _CONDITIONS for s in ("train", "val")]
_NIGHT: Final = "val/night/GOPR0356/GOPR0356_frame_000321"
_MAPILLARY: Final = ("training/{}/__CRyFzoDOXn6unQ6a3DnQ", "validation/{}/_1Gn_xkw7sa_i9")

PUBLISHED: Final[Mapping[str, Mapping[str, Save]]] = {
    "gta5": {
        **{f"images/0000{i}.png": _photo for i in (1, 2, 3)},
        **{f"labels/0000{i}.png": _ids(7, 26, 34, how=save_paletted) for i in (1, 2, 3)},
        "labels/00001_labelTrainIds.png": _ids(0),
    },
    "cityscapes": {
        **{f"leftImg8bit/{city}_000000_000019_leftImg8bit.png": _photo for city in _CITIES},
        **{f"gtFine/{city}_000000_000019_gtFine_labelIds.png": _ids(0, 11, 33) for city in _CITIES},
        **{f"gtFine/{city}_000000_000019_gtFine_instanceIds.png": _ids(1) for city in _CITIES},
    },
    "synthia": {
        "RGB/0000000.png": _photo,
        "RGB/0000001.png": _photo,
        "GT/LABELS/0000000.png": _ids(3, 21, 22, how=save_deep),
        "GT/LABELS/0000001.png": _ids(3, 21, 22, how=save_deep),
        "GT/COLOR/0000000.png": _photo,
    },
    "acdc": {
        **{f"rgb_anon/{frame}_rgb_anon.png": _photo for frame in _ACDC},
        **{f"gt/{frame}_gt_labelIds.png": _ids(0, 7, 33) for frame in _ACDC},
        **{f"gt/{frame}_gt_labelTrainIds.png": _ids(255, 0, 18) for frame in _ACDC},
        **{f"gt/{frame}_gt_labelColor.png": _photo for frame in _ACDC},
        "rgb_anon/fog/train_ref/GOPR0475/fog_rgb_ref_anon.png": _photo,
        "rgb_anon/fog/test/GOPR0477/fog_rgb_anon.png": _photo,
    },
    "dark_zurich": {
        "rgb_anon/train/day/GOPR0345/GOPR0345_frame_000003_rgb_anon.png": _photo,
        "rgb_anon/train/twilight/GOPR0345/GOPR0345_frame_000008_rgb_anon.png": _photo,
        "rgb_anon/train/night/GOPR0345/GOPR0345_frame_000005_rgb_anon.png": _photo,
        f"rgb_anon/{_NIGHT}_rgb_anon.png": _photo,
        f"gt/{_NIGHT}_gt_labelIds.png": _ids(0, 7, 33),
        f"gt/{_NIGHT}_gt_labelTrainIds.png": _ids(255, 0, 18),
        "rgb_anon/val_ref/day/GOPR0356/GOPR0356_frame_000321_ref_rgb_anon.png": _photo,
    },
    "bdd100k": {
        "images/10k/train/0004a4c0-d4dff0ad.jpg": _photo,
        "images/10k/val/7d06fefd-f7be05a6.jpg": _photo,
        "labels/sem_seg/masks/train/0004a4c0-d4dff0ad.png": _ids(0, 18, 255),
        "labels/sem_seg/masks/val/7d06fefd-f7be05a6.png": _ids(0, 18, 255),
        "labels/sem_seg/colormaps/val/7d06fefd-f7be05a6.png": _photo,
    },
    "mapillary": {
        **{f"{name}.jpg".format("images"): _photo for name in _MAPILLARY},
        **{
            f"{name}.png".format("labels"): _ids(13, 44, 65, how=save_paletted)
            for name in _MAPILLARY
        },
        **{f"{name}.png".format("instances"): _ids(1) for name in _MAPILLARY},
    },
}
"""Kind -> files as they are published."""


@pytest.fixture
def published(tmp_path: Path) -> Callable[[str], Path]:
    """Write the files of a kind."""

    def write(kind: str) -> Path:
        for path, save_to in PUBLISHED[kind].items():
            save_to(tmp_path / kind / path)
        return tmp_path / kind

    return write


@pytest.fixture
def gta5(published: Callable[[str], Path]) -> Path:
    return published("gta5")


@pytest.fixture
def cityscapes(published: Callable[[str], Path]) -> Path:
    return published("cityscapes")


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """A user's own data: images in subfolders, labels of ids 0, 7 and 255."""
    root = tmp_path / "own"
    for split, names in (("train", ("a/1", "a/2", "b/1")), ("val", ("v",))):
        for seed, name in enumerate(names):
            save(root / split / "images" / f"{name}.jpg", photo(seed + 50 * (split == "val")))
            save(root / split / "labels" / f"{name}.png", ids(0, 7, 255))
    return root


def config_of(kind: str, root: Path, **keys: object) -> dict[str, Any]:
    return {"kind": kind, "root": str(root), "fit_px": None} | keys


gta5_config = partial(config_of, "gta5", fit_px=[30, 20], val_list=None)
cityscapes_config = partial(config_of, "cityscapes", fit_px=[30, 20])


def folder_config(root: Path, **changed: object) -> dict[str, Any]:
    return {
        "kind": "folder",
        "root": str(root),
        "fit_px": None,
        "train_images": "train/images",
        "train_labels": "train/labels",
        "val_images": "val/images",
        "val_labels": "val/labels",
        "classes": [
            {"name": "lane", "color": [128, 64, 128], "ids": [0]},
            {"name": "rest", "color": [70, 70, 70], "ids": [7, 8]},
        ],
        "ignore_ids": [255],
        "ignore_colors": [[0, 0, 0]],
    } | changed


def drawn_config(root: Path, **changed: object) -> dict[str, Any]:
    size = {"width_px": 96, "height_px": 64, "train": 3, "val": 2}
    return config_of("drawn", root, style="day", strength=1.0, seed=1) | size | changed
