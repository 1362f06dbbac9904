"""Many images: the plan was right."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.files import MANIFEST
from pipeline.params import load_params
from pipeline.plan import plan_stores
from stages.prepare.manifest import Manifest
from tests.pipeline.workplace import SMALLEST, demand, write_params
from tests.prepare.conftest import folder_config

SIDE_PX = 64
COUNT = 150


def save_photos(split: Path, count: int) -> None:
    """Save photos of noise with one label each."""
    rng = np.random.default_rng(count)
    for kind in ("images", "labels"):
        (split / kind).mkdir(parents=True)
    label = split / "label.png"
    Image.fromarray(np.zeros((SIDE_PX, SIDE_PX), np.uint8)).save(label)
    for number in range(count):
        photo = rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8)
        Image.fromarray(photo).save(split / "images" / f"{number:05d}.bmp")
        os.link(label, split / "labels" / f"{number:05d}.png")


def test_150_images_take_the_files_and_the_room_that_was_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(
        tmp_path,
        {
            **SMALLEST,
            "prepare.source": folder_config(Path("photos"), val_images=None, val_labels=None),
            "prepare.target": None,
            "store.shard_images": 100,
            "embed.domains": ["source"],
            "train.self_training": None,
            "train.regularizer.on": ["source"],
        },
    )
    save_photos(tmp_path / "photos" / "train", COUNT)
    demand("prepare")
    planned = plan_stores(load_params(Path("params.yaml")), Manifest.read(MANIFEST))
    demand("embed")
    (store,) = Path("data/features/source").iterdir()
    sizes = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
    assert planned.room.files == len(sizes)
    assert planned.room.size_bytes == pytest.approx(sum(sizes), rel=0.05)
