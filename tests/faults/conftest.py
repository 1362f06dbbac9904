"""Worlds to be hurt."""

from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import pytest

from stages.embed.config import EmbedConfig
from tests.embed.conftest import embed_config as embed_config  # a fixture
from tests.embed.world import World

Undisturbed = Callable[[World], dict[str, bytes]]

PROCESSES: Final = get_context("forkserver")
PROCESSES.set_forkserver_preload(["stages.embed.task", "store.write"])  # torch, imported once


def embed(world: World) -> int:
    """Bring the store up to date, in any process; return how many images were embedded."""
    return world.run().embedded


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

    def embed_elsewhere(world: World) -> dict[str, bytes]:
        other = world.twin(tmp_path_factory.mktemp("undisturbed"))
        other.run()
        return other.features()

    return embed_elsewhere
