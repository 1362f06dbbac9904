"""Writing goes on beside embedding; what goes wrong in either thread ends the run."""

import threading
from collections.abc import Iterator

import pytest

from stages.embed.executor import run_serial
from store.errors import StoreError
from store.shard_writer import ShardTask

TASKS = [ShardTask(i, (), ()) for i in range(4)]


def test_shards_are_written_in_order_while_the_next_is_made() -> None:
    second_begun, written = threading.Event(), []

    def shards() -> Iterator[tuple[ShardTask, str]]:
        for task in TASKS:
            if task.shard == 1:
                second_begun.set()
            yield task, f"features {task.shard}"

    def write(shard: tuple[ShardTask, str]) -> None:
        assert second_begun.wait(10)
        written.append((shard[0].shard, shard[1]))

    run_serial(shards(), write)
    assert written == [(i, f"features {i}") for i in range(4)]


def test_at_most_one_shard_waits_to_be_written() -> None:
    alive, most = set(), 0

    def shards() -> Iterator[tuple[ShardTask, str]]:
        nonlocal most
        for task in TASKS:
            alive.add(task.shard)
            most = max(most, len(alive))
            yield task, ""

    run_serial(shards(), lambda shard: alive.discard(shard[0].shard))
    assert most <= 3  # written, handed over, made


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

    def shards() -> Iterator[tuple[ShardTask, str]]:
        yield TASKS[0], ""
        interrupted.set()
        raise KeyboardInterrupt

    def write(shard: tuple[ShardTask, str]) -> None:
        assert interrupted.wait(10)
        written.append(shard[0].shard)

    with pytest.raises(KeyboardInterrupt):
        run_serial(shards(), write)
    assert written == [0]
