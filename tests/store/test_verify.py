import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from store.errors import StoreBusyError
from store.verify import discard, verify
from store.write import StoreWriter
from tests.store.worlds import LEVELS, SPEC, features_of, files, flip_a_bit, images, write

IMAGES = images(7)
BIT8 = replace(SPEC, codec="int8-zstd")


@pytest.mark.parametrize("count", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_flipped_bits_are_found_named_and_repaired_to_the_byte(tmp_path: Path, count: int) -> None:
    folder = tmp_path
    rng = random.Random(count)
    for spec in (SPEC, BIT8):
        write(folder / "sound", IMAGES, spec=spec)
        assert verify(folder / "sound" / spec.relative_path).sound
    for number in range(count):
        spec = (SPEC, BIT8)[number % 2]
        place = folder / f"flipped {number}"
        shutil.copytree(folder / "sound", place)
        store = place / spec.relative_path
        before = files(store)
        shards = [name for name in before if name.startswith("stride") and "/c." in name]
        others = [name for name in before if name not in shards]
        name = rng.choice(shards if number % 4 < 2 else others)
        flip_a_bit(store, name, rng.randrange(2**40))
        report = verify(store)
        assert name in [damage.file for damage in report.damage], name
        if name in shards:
            shard = int(name.split(".")[1])
            assert len(report.damage) == 1
            held = tuple(image.image_id for image in IMAGES[3 * shard : 3 * shard + 3])
            assert report.damage[0].images == held
        discard(store, report.damage)
        _, tasks = write(place, IMAGES, spec=spec)
        assert len(tasks) <= 1, name  # no more than the shard that was hit
        assert files(store) == before, name
        assert verify(store).sound
        shutil.rmtree(place)


def test_an_interrupted_store_lacks_what_was_not_written(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, SPEC, IMAGES, ("stride8",)) as writer:
        writer.write_shard(task := writer.pending()[0], features_of(task))
        path = writer.path
    assert [damage.file for damage in verify(path).damage] == [
        "stride8/c.1.0.0.0",
        "stride8/c.2.0.0.0",
    ]


def test_a_store_that_is_being_written_is_not_changed(tmp_path: Path) -> None:
    write(tmp_path, IMAGES)
    with StoreWriter(tmp_path, SPEC, images(8), LEVELS), pytest.raises(StoreBusyError):
        discard(tmp_path / SPEC.relative_path, [])
