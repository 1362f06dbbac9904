"""One writer per folder: a lock that the kernel frees, also after `kill -9`."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from store import atomic
from store.errors import StoreBusyError
from store.fingerprint import canonical_json


@contextmanager
def writer_lock(folder: Path, what: str) -> Iterator[None]:
    """Hold the writer's lock of a folder.

    `writer.lock` carries the lock and stays, empty; `writer.json` only names its holder.

    Args:
        folder: Where the two files are; it exists.
        what: What is written, for the message.

    Raises:
        StoreBusyError: Another process holds the lock; the message names its pid and host.
        OSError: The folder is not writable.
    """
    holder = folder / "writer.json"
    lock = FileLock(folder / "writer.lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise StoreBusyError(
            f"{what} is being written by {_name(holder)}: wait for it or stop it, then run the "
            "command again"
        ) from error
    try:
        atomic.write_bytes(
            holder, canonical_json({"pid": os.getpid(), "host": socket.gethostname()})
        )
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def _name(holder: Path) -> str:
    try:
        found = json.loads(holder.read_bytes())
        return f"process {found['pid']} on host {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
