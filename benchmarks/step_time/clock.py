"""A clock for the parts of a step."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch


class Clock:
    """Seconds by part, each with what the GPU had to do for it.

    Args:
        device: Where the step runs; None measures nothing and never waits.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.called: set[str] = set()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the seconds inside to a part."""
        if self.device is None:
            yield
            return
        wait(self.device)
        started = perf_counter()
        yield
        wait(self.device)
        self.seconds[name] += perf_counter() - started

    def timed(self, part: str, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Add the seconds of every call to a part, and the name to those that were called."""

        def measured(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            self.called.add(name)
            with self.part(part):
                return function(*args, **kwargs)

        return measured


def wait(device: torch.device) -> None:
    """Let the GPU finish."""
    if device.type == "cuda":
        torch.cuda.synchronize()
