"""The lanes of embedding: order is kept, work starts early, writing goes on beside encoding."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.embed.task import ahead, batches, run_serial
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


@pytest.mark.parametrize("count", [0, 1, 3])
def test_exactly_so_many_are_drawn_before_they_are_needed(count: int) -> None:
    drawn = []

    def source() -> Iterator[int]:
        for i in range(9):
            drawn.append(i)
            yield i

    stream = ahead(source(), count)
    assert drawn == []
    for needed in range(9):
        assert next(stream) == needed
        assert len(drawn) == min(9, needed + 1 + count)


@given(st.lists(st.text("ab", min_size=1, max_size=1)), st.integers(1, 4))
def test_batches_hold_one_kind_in_order_and_lose_nothing(kinds: list[str], size: int) -> None:
    items = list(enumerate(kinds))
    found = list(batches(items, size, lambda item: item[1]))
    for kind in "ab":
        of_kind = [batch for batch in found if batch[0][1] == kind]
        assert [i for batch in of_kind for i in batch] == [i for i in items if i[1] == kind]
        assert all(len(batch) == size for batch in of_kind[:-1])
    assert all(len({kind for _, kind in batch}) == 1 for batch in found)
