"""SIGKILL at random moments of stage one, then once more the same command."""

import random
import time
from dataclasses import replace
from itertools import count

import pytest

from store.verify import MISSING, UNRECORDED, verify
from tests.embed.world import World
from tests.faults.writer import Writer

CODECS = ("float16", "int8-zstd")  # the second also fixes scales before it writes


@pytest.fixture
def larger(world: World) -> World:
    """Sixteen images at two levels: sixteen shards, so that there is a middle to kill."""
    for seed in range(5, 16):
        world.add(f"image {seed}", seed=seed)
    return replace(
        world, config=world.config.model_copy(update={"levels": ("stride8", "stride16")})
    )


def assert_nothing_false_is_recorded(world: World) -> None:
    """A killed writer leaves shards that are missing, never shards that are wrong."""
    for store in world.store_url.glob("source/*.zarr"):
        if (store / "zarr.json").exists():
            of_shards = [damage for damage in verify(store).damage if damage.level is not None]
            assert {damage.what for damage in of_shards} <= {MISSING, UNRECORDED}, of_shards


def beside(world: World, name: str, codec: str) -> World:
    folder = world.folder.with_name(f"{name} {codec}")
    folder.mkdir()
    (folder / "images").symlink_to(world.folder / "images")
    return replace(world, folder=folder, codec=codec)


@pytest.mark.parametrize("kills", [2, pytest.param(15, marks=pytest.mark.slow)])
@pytest.mark.parametrize("codec", CODECS)
def test_kills_at_random_moments_leave_no_trace(larger: World, kills: int, codec: str) -> None:
    undisturbed = beside(larger, "undisturbed", codec)
    with Writer(undisturbed) as writer:
        started = time.monotonic()
        writer.end()
        lasts_s = time.monotonic() - started
    expected, rng, left, stores = undisturbed.features(), random.Random(kills), kills, count()
    while left:
        killed = beside(larger, f"killed {next(stores)}", codec)
        while left:
            with Writer(killed) as writer:
                time.sleep(rng.uniform(0.0, lasts_s))
                if not writer.kill():
                    break  # it was done before
            left -= 1
            assert_nothing_false_is_recorded(killed)
        killed.run()
        assert killed.features() == expected
