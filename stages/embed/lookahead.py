"""Iterators that put work together, and start it before it is needed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """Draw items `count` steps before they are handed out.

    Where drawing an item starts work in another thread, that much work is under way or done.

    Args:
        items: drawn in order and from this thread only.
        count: how far ahead, at least 0.
    """
    source = iter(items)
    waiting = deque(islice(source, count))
    for item in source:
        waiting.append(item)
        yield waiting.popleft()
    yield from waiting


def batches(items: Iterable[T], size: int, kind: Callable[[T], str]) -> Iterator[list[T]]:
    """Collect lists of `size` items of one kind, in order; at the end come shorter ones."""
    collecting: dict[str, list[T]] = {}
    for item in items:
        batch = collecting.setdefault(kind(item), [])
        batch.append(item)
        if len(batch) == size:
            yield collecting.pop(kind(item))
    yield from collecting.values()
