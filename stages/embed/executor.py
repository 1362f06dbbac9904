"""Writing shards in a second thread while the first makes the next."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ShardT = TypeVar("ShardT")


def run_serial(shards: Iterable[ShardT], write: Callable[[ShardT], None]) -> None:
    """Write each shard in a second thread while this one makes the next.

    At most one shard waits to be written. What ends the run here, an interrupt too, lets the
    shard that is being written be finished.

    Args:
        shards: made when drawn.
        write: writes one.

    Raises:
        Exception: what `shards` or `write` raises.
    """
    with ThreadPoolExecutor(1, "write") as thread:
        writing: Future[None] | None = None
        for shard in shards:
            if writing:
                writing.result()
            writing = thread.submit(write, shard)
        if writing:
            writing.result()
