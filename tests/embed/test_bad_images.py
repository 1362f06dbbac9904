"""Images that cannot be read: a failure with their name, or left out, listed and tried again."""

from pathlib import Path
from typing import Any

import pytest

from store.errors import DataError, StoreIncompleteError
from store.index import Index
from store.read import FeatureReader
from store.summary import inspect
from store.verify import verify
from tests.embed.world import World

SKIP: dict[str, Any] = {"on_bad_image": "skip"}
BAD = "source/train/c"


def damage(world: World, name: str = "c") -> bytes:
    """Cut an image short behind the manifest's back; return what it was."""
    path = world.folder / "images" / f"{name}.png"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return data


def window(path: Path, image_id: str) -> bytes:
    reader = FeatureReader(path)
    size = reader.size_tok(image_id, "stride8")
    return reader.window(image_id, "stride8", 0, 0, *size).tobytes()


def test_a_bad_image_fails_with_its_name_unless_told_otherwise(world: World) -> None:
    damage(world)
    with pytest.raises(DataError, match=r"c\.png: has changed"):
        world.run()


@pytest.mark.parametrize(
    ("codec", "executor"),
    [("float16", "serial"), ("int8-zstd", "serial"), ("float16", "dask")],
)
def test_a_bad_image_is_left_out_listed_and_never_read(
    world: World, tmp_path: Path, codec: str, executor: str
) -> None:
    sound = world.twin(tmp_path / "twin")
    sound.codec = world.codec = codec
    exact = Path(sound.run(batch_tiles=1, threads=1).domains["source"].path)
    damage(world)
    result = world.run(**SKIP, batch_tiles=1, threads=1, executor=executor)
    done = result.domains["source"]
    assert (done.images, done.embedded) == (4, 4)
    assert list(done.skipped) == [BAD]
    assert "c.png: has changed" in done.skipped[BAD]
    assert Index.read(world.index_path).skipped("source") == done.skipped
    path = Path(done.path)
    assert inspect(path).skipped == done.skipped
    assert inspect(path).complete
    assert verify(path).sound
    with pytest.raises(StoreIncompleteError, match=r"no features of source/train/c, .*skipped"):
        window(path, BAD)
    if codec == "float16":  # the scales of the other are estimated from other images
        for name in "abde":
            image_id = f"source/train/{name}"
            assert window(path, image_id) == window(exact, image_id)


def test_what_was_skipped_stays_so_without_embedding_anything(world: World) -> None:
    damage(world)
    world.run(**SKIP)
    before = world.features()
    result = world.run(progress=lambda *call: pytest.fail(f"progress {call}"), **SKIP)
    assert list(result.domains["source"].skipped) == [BAD]
    assert world.features() == before


def test_a_mended_image_is_embedded_with_its_shard(world: World, tmp_path: Path) -> None:
    undisturbed = world.twin(tmp_path / "twin")
    undisturbed.run()
    data = damage(world)
    world.run(**SKIP)
    (world.folder / "images" / "c.png").write_bytes(data)
    done = world.run(**SKIP).domains["source"]
    assert (done.embedded, done.skipped) == (2, {})
    assert world.features() == undisturbed.features()


def test_what_was_skipped_fails_once_skipping_is_off(world: World) -> None:
    damage(world)
    world.run(**SKIP)
    with pytest.raises(DataError, match=r"c\.png: has changed"):
        world.run()


def test_a_shard_without_any_good_image_is_kept_as_empty(world: World) -> None:
    for name in "cd":
        damage(world, name)
    result = world.run(**SKIP)
    assert list(result.domains["source"].skipped) == [BAD, "source/train/d"]
    assert result.domains["source"].images == 3
    path = Path(result.domains["source"].path)
    assert verify(path).sound
    levels = inspect(path).levels
    assert levels["stride8"].statistics is not None
    assert levels["stride8"].statistics.count == 3 * 12 * 16


def test_parts_skip_as_a_whole_run_does(world: World, tmp_path: Path) -> None:
    damage(world)
    parts = world.twin(tmp_path / "parts")
    world.run(**SKIP)
    parts.run(step="init", **SKIP)
    met = [dict(parts.run(step=(i, 2), **SKIP).domains["source"].skipped) for i in (1, 2)]
    assert [list(skipped) for skipped in met] == [[], [BAD]]
    parts.run(step="finalise", **SKIP)
    reasons = {
        name: reason.replace(str(parts.folder), str(world.folder))
        for name, reason in Index.read(parts.index_path).skipped("source").items()
    }
    assert reasons == Index.read(world.index_path).skipped("source")


def test_scales_are_not_estimated_from_nothing(world: World) -> None:
    world.codec = "int8"
    for name in "abcde":
        damage(world, name)
    with pytest.raises(DataError, match="all 5 images of the sample"):
        world.run(**SKIP)


def test_a_folder_without_any_image_is_no_bad_image(world: World) -> None:
    images = world.folder / "images"
    images.rename(world.folder / "unmounted")
    with pytest.raises(DataError, match=r"images: holds nothing"):
        world.run(**SKIP)
    images.mkdir()  # an empty mount point
    with pytest.raises(DataError, match=r"images: holds nothing"):
        world.run(**SKIP)


def test_a_store_of_nothing_is_refused(world: World) -> None:
    for name in "abcde":
        damage(world, name)
    with pytest.raises(DataError, match="none of the 5 images of the source can be read"):
        world.run(**SKIP)
    assert not world.index_path.exists()
