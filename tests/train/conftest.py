"""A world to train on, and settings that keep its tests quick and repeatable."""

import os
from collections.abc import Iterator

import pytest
import torch

from tests.train.world import World, build_world


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the flush to the disk: no test pulls the plug."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Inputs of training that no test changes; copy it to damage it."""
    return build_world(tmp_path_factory.mktemp("world") / "inputs")
