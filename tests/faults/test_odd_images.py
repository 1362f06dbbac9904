"""Images as they come: odd ones are read, bad ones are named, and left out where that is asked."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from store.errors import DataError
from store.read import FeatureReader
from tests.conftest import Tell
from tests.embed.world import World, draw
from tests.faults.photos import list_photos

SIZE_PX = (96, 128)
PICTURE = Image.fromarray(draw(SIZE_PX, seed=1))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned() -> bytes:
    """On its side, with the note that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    return saved(PICTURE.transpose(Image.Transpose.ROTATE_90), "png", exif=exif)


ODD = {
    "greyscale": saved(PICTURE.convert("L"), "png"),
    "transparent": saved(PICTURE.convert("RGBA"), "png"),
    "paletted": saved(PICTURE.convert("P"), "png"),
    "for print": saved(PICTURE.convert("CMYK"), "jpeg"),
    "turned": turned(),
    "another kind than its name": saved(PICTURE, "jpeg"),
}
BAD = {
    "empty": b"",
    "cut short": saved(PICTURE, "png")[:-200],
    "text": b"<!DOCTYPE html>",
    "of 16 bits": saved(Image.fromarray(np.zeros(SIZE_PX, np.uint16)), "png"),
    "huge": saved(Image.new("1", (16_000, 16_000)), "png"),  # 32 kB that want 768 MB
}


@pytest.fixture
def add(world: World) -> Callable[[str, bytes], Path]:
    """Add a file and its label to a world that has one good photo."""

    def call(name: str, data: bytes) -> Path:
        for kind in ("photos", "labels"):
            (world.folder / "images" / kind).mkdir(exist_ok=True)
        label = Image.fromarray(np.zeros(SIZE_PX, np.uint8))
        label.save(world.folder / "images" / "labels" / f"{name}.png")
        path = world.folder / "images" / "photos" / f"{name}.png"
        path.write_bytes(data)
        return path

    call("good", saved(PICTURE, "png"))
    return call


def features(world: World, name: str) -> bytes:
    image_id = f"source/train/photos/{name}"
    reader = FeatureReader(world.store_url / next(world.store_url.glob("source/*.zarr")))
    window = reader.window(image_id, "stride8", 0, 0, *reader.size_tok(image_id, "stride8"))
    return window.tobytes()


def test_odd_images_are_read_as_what_they_show(
    world: World, add: Callable[[str, bytes], Path], tell: Tell
) -> None:
    for name, data in ODD.items():
        add(name, data)
    list_photos(world)
    world.run(batch_tiles=1)
    good = features(world, "good")
    same = [name for name in ODD if features(world, name) == good]
    assert same == ["transparent", "turned"]  # the others have other colours
    tell(f"{len(ODD)} odd images, all embedded")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_named_or_left_out(
    world: World, add: Callable[[str, bytes], Path], name: str
) -> None:
    add(name, BAD[name])
    with pytest.raises(DataError, match=rf"photos/{name}\.png: ") as info:
        list_photos(world)
    assert "\n" not in str(info.value)
    skipped = list_photos(world, on_bad_image="skip").manifest.skipped
    assert [*skipped] == [f"source/train/photos/{name}"]
    assert world.run().domains["source"].images == 1
