"""SIGKILL at random moments of stage one, then once more the same command."""

import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from store.verify import UNRECORDED, verify
from tests.conftest import Tell
from tests.embed.world import World
from tests.faults.writer import Writer

CODECS = ("float16", "int8-zstd")  # the second also fixes scales before it writes


@dataclass
class Kills:
    """What was found on the disk after each kill."""

    found: Counter[str] = field(default_factory=Counter)

    def count(self, world: World) -> None:
        shards = len(list(world.store_url.glob("source/*.zarr/stride*/c.*")))
        last = world.index_path.exists()
        self.found["the index" if last else "shards" if shards else "no shard yet"] += 1

    def __str__(self) -> str:
        return ", ".join(f"{count} x {what}" for what, count in sorted(self.found.items()))


@pytest.fixture
def larger(world: World) -> World:
    """Sixteen images at two levels: sixteen shards, so that there is a middle to kill."""
    for seed in range(5, 16):
        world.add(f"image {seed}", seed=seed)
    return replace(
        world, config=world.config.model_copy(update={"levels": ("stride8", "stride16")})
    )


def assert_nothing_false_is_vouched_for(world: World) -> None:
    """A killed writer leaves shards that are missing, never shards that are wrong."""
    for store in world.store_url.glob("source/*.zarr"):
        if (store / "zarr.json").exists():
            of_shards = [damage for damage in verify(store).damage if damage.level is not None]
            assert {damage.what for damage in of_shards} <= {
                "is missing",
                UNRECORDED,
            }, of_shards


def survive_kills(world: World, count: int, seed: int) -> Kills:
    """Kill one writer after the other until one gets through; begin anew until `count` kills."""
    rng, kills, round_number = random.Random(seed), Kills(), 0
    lasts_s: dict[str, float] = {}
    expected: dict[str, dict[str, bytes]] = {}
    for codec in CODECS:
        undisturbed = replace(world, folder=_beside(world, f"undisturbed {codec}"), codec=codec)
        with Writer(undisturbed) as writer:
            started = time.monotonic()
            writer.end()
            lasts_s[codec] = time.monotonic() - started
        expected[codec] = undisturbed.features()
    while kills.found.total() < count:
        codec = CODECS[round_number % len(CODECS)]
        killed = replace(world, folder=_beside(world, f"killed {round_number}"), codec=codec)
        round_number += 1
        while True:
            with Writer(killed) as writer:
                time.sleep(rng.uniform(0.0, lasts_s[codec]))
                if not writer.kill():
                    break
            kills.count(killed)
            assert_nothing_false_is_vouched_for(killed)
            if kills.found.total() == count:
                killed.run()
                break
        assert killed.features() == expected[codec], f"after {kills}"
    return kills


def _beside(world: World, name: str) -> Path:
    folder = world.folder.with_name(name)
    folder.mkdir()
    (folder / "images").symlink_to(world.folder / "images")
    return folder


def test_3_kills_leave_no_trace(larger: World, tell: Tell) -> None:
    kills = survive_kills(larger, count=3, seed=1)
    tell(f"{kills.found.total()} kills at random moments, finding {kills}")


@pytest.mark.slow
def test_30_kills_leave_no_trace(larger: World, tell: Tell) -> None:
    kills = survive_kills(larger, count=30, seed=2)
    tell(f"{kills.found.total()} kills at random moments, finding {kills}")
    assert kills.found["shards"] >= 5  # the moments were spread over the work
