"""One writer per folder: a lock that the kernel frees, also after `kill -9`."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from store import atomic
from store.errors import StoreBusyError, StoreError
from store.fingerprint import canonical_json

_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems say that know no locks: NFS without its lock service, Lustre without flock."""

_POLL_S: Final = 0.05
_LONGEST_HOST: Final = 255


class HeldError(Exception):
    """Another process holds a lock."""


@contextmanager
def file_lock(path: Path, timeout_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file, which is created where needed and stays.

    Raises:
        HeldError: Another process holds it, still after so many seconds.
        StoreError: The file system knows no locks.
        OSError: The file cannot be written.
    """
    end = monotonic() + timeout_s
    with os.fdopen(atomic.open_regular(path, os.O_RDWR | os.O_CREAT), "rb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if monotonic() >= end:
                    raise HeldError from error
                sleep(_POLL_S)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                raise StoreError(
                    f"cannot lock {path}: its file system knows no locks ({error.strerror}), and "
                    "without them two writers could mix their files; mount it with locks (Lustre: "
                    "flock), or write elsewhere and copy the result there: reading needs no lock"
                ) from error
        yield


@contextmanager
def writer_lock(folder: Path, what: str) -> Iterator[None]:
    """Hold the writer's lock of a folder.

    `writer.lock` carries the lock and stays, empty; `writer.json` only names its holder.

    Args:
        folder: Where the two files are; it exists.
        what: What is written, for the message.

    Raises:
        StoreBusyError: Another process holds the lock; the message names its pid and host.
        StoreError: The file system knows no locks.
        OSError: The folder is not writable.
    """
    holder = folder / "writer.json"
    with ExitStack() as held:
        try:
            held.enter_context(file_lock(folder / "writer.lock"))
        except HeldError as error:
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


def _name(holder: Path) -> str:
    try:
        return name_of(atomic.read_bytes(holder))
    except OSError:
        return name_of(b"")


def name_of(holder: bytes) -> str:
    """Name the process that a lock's or lease's content tells of, which anybody may have made."""
    try:
        found = json.loads(holder)
        pid, host = int(found["pid"]), str(found["host"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "another process"
    known = host.isprintable() and len(host) <= _LONGEST_HOST
    return f"process {pid} on host {host}" if known else "another process"
