"""How the shard tasks of a store are carried out."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from store.write import ShardTask

FeaturesT = TypeVar("FeaturesT")


def run_serial(
    shards: Iterable[tuple[ShardTask, FeaturesT]],
    write: Callable[[ShardTask, FeaturesT], None],
) -> None:
    """Write each shard in a second thread while this one makes the next.

    At most one shard waits to be written. What ends the run here, an interrupt too, lets the
    shard that is being written be finished.

    Args:
        shards: tasks with their features, made when drawn.
        write: writes one shard.

    Raises:
        Exception: what `shards` or `write` raises.
    """
    with ThreadPoolExecutor(1, "write") as thread:
        writing: Future[None] | None = None
        for task, features in shards:
            if writing:
                writing.result()
            writing = thread.submit(write, task, features)
        if writing:
            writing.result()
