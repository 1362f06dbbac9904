"""A small configuration, and images to embed with it."""

from pathlib import Path

import pytest

from stages.embed.config import EmbedConfig
from stages.embed.teachers.sam import SamTeacher
from tests.embed.world import World


@pytest.fixture(scope="session")
def embed_config() -> EmbedConfig:
    return EmbedConfig(
        teacher=SamTeacher(kind="sam", architecture="tiny", weights="random", seed=3),
        levels=("stride8",),
        domains=("source",),
        splits=("train",),
        overlap=0.125,
        flips=("none",),
        batch_tiles=4,
        device="cpu",
        precision="float32",
        compile=False,
        executor="serial",
        workers=None,
        scheduler=None,
        threads=1,
    )


@pytest.fixture
def world(tmp_path: Path, embed_config: EmbedConfig) -> World:
    """Five images in shards of two."""
    world = World(tmp_path, embed_config)
    for seed, name in enumerate("abcde"):
        world.add(name, seed=seed)
    return world
