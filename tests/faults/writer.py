"""Stage one in a process of its own, which can be killed, stopped or starved."""

import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final, Self

from store.errors import SSRError
from tests.embed.world import World

_READY: Final = "ready"
_PAUSED: Final = "paused"

_PROCESSES: Final = get_context("forkserver")
_PROCESSES.set_forkserver_preload(["stages.embed.task", "store.write"])  # torch, imported once


def nothing() -> None:
    """Leave the process as it is."""


class Writer:
    """A process that brings the store of a world up to date; ended with the block.

    Args:
        world: What it embeds.
        pause_at: Wait for `go_on` when so many images are done.
        first: What the process does to itself before.
    """

    def __init__(
        self, world: World, *, pause_at: int = 0, first: Callable[[], None] = nothing
    ) -> None:
        self._here, there = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_embed, args=(world, pause_at, first, there))
        self._process.start()
        there.close()
        assert self._here.recv() == _READY  # what is imported by now costs no time any more

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self._here.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def wait_for_pause(self) -> None:
        assert self._here.recv() == _PAUSED

    def go_on(self) -> None:
        self._here.send(None)

    def end(self) -> int:
        """Wait for the end; return how many images were embedded, or raise what ended it."""
        outcome = self._here.recv()
        self._process.join()
        if isinstance(outcome, SSRError):
            raise outcome
        assert isinstance(outcome, int), outcome
        return outcome

    def stop(self) -> None:
        """SIGSTOP: the process keeps what it holds and does nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def kill(self) -> bool:
        """SIGKILL; tell whether there was something left to kill."""
        self._process.kill()
        self._process.join()
        return self._process.exitcode == -signal.SIGKILL


def _embed(world: World, pause_at: int, first: Callable[[], None], there: Connection) -> None:
    def progress(done: int, total: int, what: str) -> None:
        if done == pause_at:
            there.send(_PAUSED)
            there.recv()

    outcome: Any
    first()
    there.send(_READY)
    try:
        outcome = world.run(progress).embedded
    except SSRError as error:
        outcome = error
    there.send(outcome)
