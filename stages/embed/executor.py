"""How the shard tasks of a store are carried out."""

from collections.abc import Callable, Iterable

from store.write import ShardTask


def run_serial(tasks: Iterable[ShardTask], work: Callable[[ShardTask], None]) -> None:
    """Do one task after the other in this process.

    Args:
        tasks: shards to be made, each owned by one task in all its levels.
        work: embeds and writes one shard.
    """
    for task in tasks:
        work(task)
