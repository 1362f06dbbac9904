"""Datasets in the exact layouts of their publishers, a few tiny files each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
        **changed: object,
    ) -> PrepareResult:
        keys = {"pad_to_px": pad_to_px, "on_bad_image": on_bad_image}
        config = PrepareConfig.model_validate({"source": source, "target": target, **keys})
        arguments: dict[str, Any] = {
            "out": tmp_path / "out" / "manifest.parquet",
            "cache": tmp_path / "out" / "scan.cache",
            "progress": lambda done, total, what: None,
        } | changed
        return run(config, **arguments)

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


def photo(seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def ids(*values: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A label of equal vertical bands, one per value, the last one taking what is left."""
    columns = np.minimum(np.arange(size[1]) // (size[1] // len(values)), len(values) - 1)
    return np.broadcast_to(np.array(values, np.uint8)[columns], size).copy()


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """A user's own data: images in subfolders, labels of ids 0, 7 and 255."""
    root = tmp_path / "own"
    for split, names in (("train", ("a/1", "a/2", "b/1")), ("val", ("v",))):
        for seed, name in enumerate(names):
            save(root / split / "images" / f"{name}.jpg", photo(seed + 50 * (split == "val")))
            save(root / split / "labels" / f"{name}.png", ids(0, 7, 255))
    return root


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


@pytest.fixture
def gta5(tmp_path: Path) -> Path:
    root = tmp_path / "gta5"
    for number in (1, 2, 3):
        save(root / "images" / f"{number:05d}.png", photo(number))
        save_paletted(root / "labels" / f"{number:05d}.png", ids(7, 26, 34))
    return root


def gta5_config(root: Path, **changed: object) -> dict[str, Any]:
    return {"kind": "gta5", "root": str(root), "fit_px": [30, 20], "val_list": None} | changed


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    root = tmp_path / "cityscapes"
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau")):
        frame = f"{city}_000000_000019"
        save(root / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png", photo(5))
        labels = root / "gtFine" / split / city
        save(labels / f"{frame}_gtFine_labelIds.png", ids(0, 11, 33))
        save(labels / f"{frame}_gtFine_instanceIds.png", ids(1))
    return root


def cityscapes_config(root: Path, **changed: object) -> dict[str, Any]:
    return {"kind": "cityscapes", "root": str(root), "fit_px": [30, 20]} | changed


def drawn_config(root: Path, **changed: object) -> dict[str, Any]:
    return {
        "kind": "drawn",
        "root": str(root),
        "fit_px": None,
        "style": "day",
        "strength": 1.0,
        "seed": 1,
        "width_px": 96,
        "height_px": 64,
        "train": 3,
        "val": 2,
    } | changed
