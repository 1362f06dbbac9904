"""Times of files tell nothing: features follow what the files hold."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stages.embed.teachers.sam_encoder import PREFIX, draw_encoder
from stages.embed.teachers.sam_sizes import ARCHITECTURES
from stages.prepare import stage as prepare_stage
from stages.prepare.stage import PrepareConfig, PrepareResult
from store.verify import verify
from tests.embed.world import World, changed, draw, silent
from tests.faults.conftest import Undisturbed
from tests.prepare.conftest import folder_config

SIZE_PX = (96, 128)
Put = Callable[[Path, Callable[[Path], object]], None]


def list_photos(world: World) -> PrepareResult:
    """List `images/photos` with their `images/labels`, cache included, into the world's records."""
    config = folder_config(
        world.folder / "images",
        train_images="photos",
        train_labels="labels",
        val_images=None,
        val_labels=None,
    )
    result = prepare_stage.run(
        PrepareConfig.model_validate(
            {"source": config, "target": None, "pad_to_px": 32, "on_bad_image": "fail"}
        ),
        out=world.folder / "manifest.parquet",
        cache=world.folder / "scan-cache",
        progress=silent,
    )
    world.records = {record.image_id: record for record in result.manifest.records}
    return result


def replace_keeping_size_and_time(path: Path, write: Callable[[Path], object]) -> None:
    """Put another file in a place, as `cp -p` and `rsync -t` do."""
    before = path.stat()
    other = path.with_name(f"other {path.name}")
    write(other)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def overwrite_keeping_size_and_time(path: Path, write: Callable[[Path], object]) -> None:
    """Write into the same file, and set its time back."""
    before = path.stat()
    write(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


PUTS = (replace_keeping_size_and_time, overwrite_keeping_size_and_time)


def photo(world: World, name: str) -> Path:
    return world.folder / "images" / "photos" / f"{name}.bmp"


def save_photo(path: Path, seed: int) -> None:
    """Save without compression: photos of one size in pixels have one size in bytes."""
    Image.fromarray(draw(SIZE_PX, seed)).save(path, format="bmp")


def fresh(world: World, undisturbed: Undisturbed) -> dict[str, bytes]:
    """Embed the images as they are now, with a manifest made from nothing."""
    (world.folder / "scan-cache").unlink()
    list_photos(world)
    return undisturbed(world)


@pytest.fixture
def photos(world: World) -> World:
    """Five photos that were prepared and embedded."""
    for kind in ("photos", "labels"):
        (world.folder / "images" / kind).mkdir()
    for seed, name in enumerate("abcde"):
        save_photo(photo(world, name), seed)
        label = Image.fromarray(np.zeros(SIZE_PX, np.uint8))
        label.save(world.folder / "images" / "labels" / f"{name}.png")
    list_photos(world)
    assert world.run().embedded == 5
    return world


@pytest.mark.parametrize("moment_s", [1.0, 4.1e9], ids=["in 1970", "in 2100"])
def test_touched_images_and_stores_change_nothing(photos: World, moment_s: float) -> None:
    before = photos.features()
    for path in photos.folder.rglob("*"):
        os.utime(path, (moment_s, moment_s))
    assert not list_photos(photos).changed
    assert photos.run().embedded == 0
    assert photos.features() == before
    assert verify(next(photos.store_url.glob("source/*.zarr"))).sound


@pytest.mark.parametrize("put", PUTS, ids=lambda put: put.__name__)
def test_a_photo_that_differs_in_content_alone_is_embedded_again(
    photos: World, put: Put, undisturbed: Undisturbed
) -> None:
    put(photo(photos, "c"), partial(save_photo, seed=77))
    assert list_photos(photos).changed
    assert photos.run().embedded == 2
    assert photos.features() == fresh(photos, undisturbed)


def test_weights_replaced_by_others_of_the_same_size_and_time_make_another_store(
    world: World, undisturbed: Undisturbed
) -> None:
    def save(path: Path, seed: int) -> None:
        weights = draw_encoder(ARCHITECTURES["tiny"], seed).state_dict()
        with path.open("wb") as file:  # a file, so that its name is not written into the archive
            torch.save({PREFIX + key: value for key, value in weights.items()}, file)

    teacher = world.folder / "teacher.pth"
    world.config = changed(world.config, weights=str(teacher))
    save(teacher, seed=5)
    first = world.run()
    old = {name: data for name, data in world.features().items() if ".zarr/" in name}
    overwrite_keeping_size_and_time(teacher, partial(save, seed=6))
    second = world.run()
    assert second.path != first.path
    assert second.embedded == 5
    new = world.features()
    assert old.items() <= new.items()
    assert {name: data for name, data in new.items() if name not in old} == undisturbed(world)
    overwrite_keeping_size_and_time(teacher, partial(save, seed=5))
    os.utime(teacher, (1.0, 1.0))
    back = world.run()
    assert (back.path, back.embedded) == (first.path, 0)
