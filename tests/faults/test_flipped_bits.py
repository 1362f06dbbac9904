"""One flipped bit anywhere in a store: found, its image named, mended to the byte."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from store.verify import discard, verify
from tests.conftest import Tell
from tests.embed.world import World

CHUNK_BYTES = 64 * 16 * 16 * 2 + 4
"""An image of 12 x 16 tokens is one chunk: 64 channels of float16 over 16 x 16, and a crc32c."""


def images_hit(ids: list[str], shard: int, byte: int) -> list[str]:
    """Say whose features a byte of a shard is part of: one image's, or through the index all."""
    held = ids[2 * shard : 2 * shard + 2]
    return [held[byte // CHUNK_BYTES]] if byte < CHUNK_BYTES * len(held) else held


def survive_flips(world: World, count: int) -> tuple[int, int]:
    """Flip one bit after the other; return how many were in shards, and how many elsewhere."""
    store = Path(world.run().domains["source"].path).relative_to(world.folder)
    before, ids = world.features(), list(world.records)
    rng, in_shards = random.Random(count), 0
    for number in range(count):
        folder = world.folder.with_name(f"flip {number}")
        shutil.copytree(world.folder, folder, symlinks=True)
        hurt = replace(world, folder=folder)
        files = sorted(
            path
            for path in (folder / store).rglob("*")
            if path.is_file() and path.parent.name != "leases"
        )
        shards = [
            path for path in files if path.name.startswith("c.") and path.stat().st_size > 999
        ]
        path = rng.choice(shards if number % 2 else [path for path in files if path not in shards])
        data = bytearray(path.read_bytes())
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)

        report = verify(folder / store)
        name = path.relative_to(folder / store).as_posix()
        assert [damage.file for damage in report.damage] == [name], (name, bit)
        discard(folder / store, report.damage)
        embedded = hurt.run().domains["source"].embedded
        (damage,) = report.damage
        if damage.shard is None:
            assert (damage.images, embedded) == ((), 0), name
        else:
            whole = ids[2 * damage.shard : 2 * damage.shard + 2]
            hit = images_hit(ids, damage.shard, bit // 8) if path in shards else whole
            assert (list(damage.images), embedded) == (hit, len(whole)), (name, bit)
        assert hurt.features() == before, (name, bit)
        in_shards += path in shards
        shutil.rmtree(folder)
    return in_shards, count - in_shards


def test_6_flipped_bits_are_found_named_and_mended(world: World, tell: Tell) -> None:
    in_shards, elsewhere = survive_flips(world, 6)
    tell(f"{in_shards} bits flipped in shards and {elsewhere} in metadata, all found and mended")


@pytest.mark.slow
def test_40_flipped_bits_are_found_named_and_mended(world: World, tell: Tell) -> None:
    in_shards, elsewhere = survive_flips(world, 40)
    tell(f"{in_shards} bits flipped in shards and {elsewhere} in metadata, all found and mended")
    assert in_shards + elsewhere == 40
