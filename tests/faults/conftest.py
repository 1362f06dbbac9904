"""Worlds to be hurt."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.embed.config import EmbedConfig
from tests.embed.conftest import embed_config as embed_config  # a fixture
from tests.embed.world import World

Undisturbed = Callable[[World], dict[str, bytes]]


@pytest.fixture
def world(tmp_path: Path, embed_config: EmbedConfig) -> World:
    """Five images in shards of two; the same bits in whichever process they are embedded."""
    world = World(tmp_path / "world", embed_config.model_copy(update={"threads": 1}))
    (world.folder / "images").mkdir(parents=True)
    for seed, name in enumerate("abcde"):
        world.add(name, seed=seed)
    return world


@pytest.fixture
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Embed the same images elsewhere, in one go; return all files of the store, and the index."""

    def embed(world: World) -> dict[str, bytes]:
        other = World(
            tmp_path_factory.mktemp("undisturbed"),
            world.config,
            world.shard_images,
            dict(world.records),
            world.codec,
        )
        shutil.copytree(world.folder / "images", other.folder / "images")
        other.run()
        return other.features()

    return embed
