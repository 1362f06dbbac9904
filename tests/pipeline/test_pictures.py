"""`ssr inspect --png`: colours of tokens, and the picture that a person looks at."""

from pathlib import Path

import pytest
from PIL import Image

from store.read import FeatureReader
from tests.pipeline.mistakes import assert_refused
from tests.pipeline.workplace import demand, the_store


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
    command = f"inspect {the_store('source')} --image source/train/x"
    assert_refused(f"{command} --png a.png", "its 6 images begin with source/train/")
    assert_refused(command, "--image needs --png")
    assert not Path("a.png").exists()


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
