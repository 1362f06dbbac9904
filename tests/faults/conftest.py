"""Worlds to be hurt, and the count of what was done to them, printed when the tests are over."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.embed.config import EmbedConfig
from tests.embed.conftest import embed_config as embed_config  # a fixture
from tests.embed.world import World

Tell = Callable[[str], None]
Undisturbed = Callable[[World], dict[str, bytes]]

_TOLD = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TOLD] = []


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.stash[_TOLD]:
        terminalreporter.section("faults injected")
        for line in config.stash[_TOLD]:
            terminalreporter.write_line(line)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Say how many faults were injected; it is printed below the results of all tests."""
    return request.config.stash[_TOLD].append


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
