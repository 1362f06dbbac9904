"""Two processes that want to write the same store."""

import socket
from contextlib import ExitStack

import pytest

from store.errors import StoreBusyError
from tests.embed.world import World
from tests.faults.conftest import Undisturbed
from tests.faults.writer import Writer


def test_a_second_writer_is_refused_and_told_who_writes_and_the_first_is_not_disturbed(
    world: World, undisturbed: Undisturbed
) -> None:
    with Writer(world, pause_at=3) as first:
        first.wait_for_pause()
        who = f"process {first.pid} on host {socket.gethostname()}"
        with pytest.raises(StoreBusyError, match=f"is being written by {who}: wait for it"):
            world.run()
        with Writer(world) as second, pytest.raises(StoreBusyError, match=who):
            second.end()
        first.go_on()
        assert first.end() == 5
    assert world.features() == undisturbed(world)
    assert world.run().embedded == 0


def test_a_stopped_writer_keeps_its_store_and_a_killed_one_frees_it_at_once(
    world: World, undisturbed: Undisturbed
) -> None:
    with Writer(world, pause_at=3) as first:
        first.wait_for_pause()
        first.stop()
        with pytest.raises(StoreBusyError, match=f"process {first.pid}"):
            world.run()
        assert first.kill()
    world.run()
    assert world.features() == undisturbed(world)


def test_of_writers_that_come_at_once_one_embeds_and_the_store_is_as_of_one(
    world: World, undisturbed: Undisturbed
) -> None:
    embedded, refused = [], 0
    with ExitStack() as stack:
        for writer in [stack.enter_context(Writer(world)) for _ in range(4)]:
            try:
                embedded.append(writer.end())
            except StoreBusyError:
                refused += 1
    assert sorted(embedded, reverse=True) == [5] + [0] * (3 - refused)
    assert world.features() == undisturbed(world)
