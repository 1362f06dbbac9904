import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stages.prepare.manifest import Manifest
from store.errors import (
    StoreError,
    StoreIncompleteError,
    StoreMismatchError,
    StoreMissingError,
)
from store.index import Index
from tests.train.world import TEACHER, World


def remove_index(world: World) -> None:
    world.index_path.unlink()


def scramble_index(world: World) -> None:
    world.index_path.write_text("{}")


def forget_target(world: World) -> None:
    world.embed(domains=["source"])


def forget_level_in_index(world: World) -> None:
    index = json.loads(world.index_path.read_text())
    for entry in index["stores"].values():
        del entry["levels"]["stride16"]
    world.index_path.write_text(json.dumps(index))


def keep_one_level(world: World) -> None:
    shutil.rmtree(world.store_url)
    world.embed(levels=["stride8"])


def remove_shard(world: World) -> None:
    (world.store("target") / "stride16" / "c.1.0.0.0").unlink()


def truncate_shard(world: World) -> None:
    (world.store("target") / "stride16" / "c.1.0.0.0").write_bytes(b"")


def remove_store(world: World) -> None:
    shutil.rmtree(world.store("source"))


def add_images(world: World) -> None:
    world.prepare(images=7)


def change_image(world: World) -> None:
    manifest = Manifest.read(world.manifest_path)
    first, *others = manifest.records
    replace(manifest, records=(replace(first, sha256="0" * 64), *others)).write(world.manifest_path)


def name_another_store(world: World) -> None:
    text = world.index_path.read_text()
    found = Index.read(world.index_path).stores["source"].fingerprint
    world.index_path.write_text(text.replace(found, found[:8] + "0" * 56))


def mix_teachers(world: World) -> None:
    world.embed(teachers={"target": {**TEACHER, "architecture": "other random numbers"}})


@pytest.mark.parametrize(
    ("damage", "kind", "says"),
    [
        (remove_index, StoreMissingError, "no index of features at"),
        (scramble_index, StoreError, "delete it and run `ssr embed`"),
        (
            forget_target,
            StoreMissingError,
            "of target, only of ['source']: add it to embed.domains",
        ),
        (forget_level_in_index, StoreIncompleteError, "only stride8: add it to embed.levels"),
        (keep_one_level, StoreIncompleteError, "only stride8: add it to embed.levels"),
        (remove_shard, StoreIncompleteError, "shard 1 of stride16"),
        (truncate_shard, StoreIncompleteError, "shard 1 of stride16"),
        (remove_store, StoreMissingError, "run `ssr embed`"),
        (add_images, StoreIncompleteError, "has no image 'source/train/"),
        (change_image, StoreMismatchError, "1 images changed since they were embedded"),
        (name_another_store, StoreMismatchError, "has fingerprint"),
        (mix_teachers, StoreMismatchError, "of two teachers"),
    ],
)
def test_a_store_that_does_not_fit_is_refused_before_training(
    world: World, tmp_path: Path, damage: Callable[[World], None], kind: type[StoreError], says: str
) -> None:
    copy = world.copy(tmp_path / "copy")
    damage(copy)
    done = []
    with pytest.raises(StoreError) as caught:
        copy.run(
            tmp_path / "run",
            lambda *call: done.append(call),
            regularizer={"levels": ["stride8", "stride8", "stride16", "stride16"]},
        )
    assert type(caught.value) is kind
    message = str(caught.value)
    assert says in message
    assert "run `ssr embed`" in message
    assert "\n" not in message
    assert not done
    assert not (tmp_path / "run" / "student").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_named_when_it_is_read(
    world: World, tmp_path: Path, workers: int
) -> None:
    copy = world.copy(tmp_path / "copy")
    for shard in copy.store("source").glob("stride8/c.*"):
        data = bytearray(shard.read_bytes())
        data[: len(data) // 2] = bytes(len(data) // 2)
        shard.write_bytes(data)
    with pytest.raises(StoreError) as caught:
        copy.run(tmp_path / "run", workers=workers)
    message = str(caught.value)
    assert message.startswith("source/train/day-")
    assert "--repair" in message
    assert "\n" not in message


def test_images_that_were_skipped_are_not_trained_on(world: World, tmp_path: Path) -> None:
    world = world.copy(tmp_path / "copy")
    gone = world.records("source")[0]
    shutil.rmtree(world.store_url)
    world.embed(skipped={gone.image_id: "half a file"})
    (world.roots["source"] / gone.image).unlink()
    result = world.run(tmp_path / "run")
    (note,) = (note for note in result.notes if gone.image_id in note)
    assert note.startswith("1 images have no features and are not trained on")
    assert "half a file" in note
