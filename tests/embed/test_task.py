"""The lanes of embedding: order is kept, work starts early, writing goes on beside encoding."""

import threading
from collections.abc import Generator

import pytest

from stages.embed.task import run_serial
from store.errors import StoreError
from store.shard_writer import ShardTask

TASKS = [ShardTask(i, (), ()) for i in range(4)]


@pytest.mark.parametrize("bad", range(4))
def test_what_the_writer_meets_is_raised(bad: int) -> None:
    written = []

    def write(shard: tuple[ShardTask, str]) -> None:
        if shard[0].shard == bad:
            raise StoreError("disk full")
        written.append(shard[0].shard)

    with pytest.raises(StoreError, match="disk full"):
        run_serial(((task, "") for task in TASKS), write)
    assert written == list(range(bad))


def test_an_interrupt_lets_the_shard_in_hand_be_finished() -> None:
    interrupted, written = threading.Event(), []

    def shards() -> Generator[tuple[ShardTask, str], None, None]:
        yield TASKS[0], ""
        interrupted.set()
        raise KeyboardInterrupt

    def write(shard: tuple[ShardTask, str]) -> None:
        assert interrupted.wait(10)
        written.append(shard[0].shard)

    with pytest.raises(KeyboardInterrupt):
        run_serial(shards(), write)
    assert written == [0]
