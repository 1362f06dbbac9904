"""`ssr inspect --png`: colours of tokens, and the picture that a person looks at."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.pictures import Painter, Palette
from store.read import FeatureReader
from tests.pipeline.workplace import demand, ssr, the_store


@pytest.mark.usefixtures("photos")
def test_the_picture_shows_the_photo_and_every_level() -> None:
    demand("embed", "-S", "embed.levels=[stride8, stride16]")
    store = the_store("source")
    said = demand("inspect", str(store), "--png", "out.png")
    assert "without the photo" not in said
    with Image.open("out.png") as picture:
        whole = picture.size
    demand("inspect", str(store), "--png", "out.png", "--params", "not-there.yaml")
    with Image.open("out.png") as picture:
        assert picture.size[1] < whole[1]  # two panels instead of three: one row less


@pytest.mark.usefixtures("photos")
def test_an_unknown_image_is_refused_with_some_that_are_known() -> None:
    outcome = ssr(
        "inspect", str(the_store("source")), "--image", "source/train/x", "--png", "a.png"
    )
    assert outcome.code == 2
    assert "its 6 images begin with source/train/" in outcome.err
    assert ssr("inspect", str(the_store("source")), "--image", "source/train/x").code == 2
    assert not Path("a.png").exists()


@pytest.mark.usefixtures("photos")
def test_padding_is_neither_drawn_nor_part_of_the_colours() -> None:
    reader = FeatureReader(the_store("source"))
    ids = [slot.image.image_id for slot in reader.header.slots]
    sizes_px = dict.fromkeys(ids, (41, 96))  # as if the rest of 64 x 128 were padding
    painter = Painter(reader, ())
    painter.sizes_px = sizes_px
    maps = [reader.window(name, "stride8", 0, 0, 5, 12) for name in ids]
    inside = np.concatenate([map_.reshape(len(map_), -1).T for map_ in maps])
    np.testing.assert_array_equal(painter.sample("stride8"), inside.astype(np.float32))

    colours = Palette.of(inside.astype(np.float32)).paint(maps[0])
    drawn = painter.paint(ids[0], "stride8")
    assert drawn.shape == (41, 96, 3)
    np.testing.assert_array_equal(drawn[:40:8, ::8], colours)


@pytest.mark.usefixtures("photos")
def test_an_image_that_changed_since_it_was_embedded_is_not_shown_beside_its_old_features() -> None:
    store = the_store("source")
    first = FeatureReader(store).header.slots[0].image.image_id
    path = Path("photos", f"{first.removeprefix('source/train/')}.png")
    with Image.open(path) as image:
        other = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    other.save(path)
    demand("prepare")
    said = demand("inspect", str(store), "--png", "out.png")
    assert f"without the photo: data/manifest.parquet has no image {first} as it was" in said
