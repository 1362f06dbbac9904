"""Leases in a local folder: locks that the kernel frees, also after `kill -9`."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from store import atomic
from store.lease import LEASES, WHOLE, Lease, Part, busy, holder_json, lease_name, overlap, part_of
from store.local import LocalFiles

GATE_S = 10.0
"""The gate is held for milliseconds; whoever holds it longer has been stopped."""


@contextmanager
def hold(files: LocalFiles, part: Part) -> Iterator[Lease]:
    """Hold a part's lock; see `store.lease.writer_lease`.

    `<part>.lock` carries the lock and stays, empty, until the next writer of the whole;
    `<part>.json` names its holder and the token that every write checks.
    `gate.lock` lets one writer at a time look at the others and take its own.
    """
    folder = Path(files.path(LEASES))
    folder.mkdir(parents=True, exist_ok=True)
    name = lease_name(part)
    lock = FileLock(folder / f"{name}.lock", timeout=0, thread_local=False)
    try:
        with FileLock(folder / "gate.lock", timeout=GATE_S, thread_local=False):
            for other in sorted(folder.glob("*-of-*.lock")):
                theirs = part_of(other.name)
                if theirs is None or theirs == part or not overlap(part, theirs):
                    continue
                try:
                    with FileLock(other, timeout=0, thread_local=False):
                        # Its writer is gone; processes that wrote for it learn that by this.
                        other.with_suffix(".json").unlink(missing_ok=True)
                        if part == WHOLE:
                            other.unlink()  # behind the gate nobody waits for it
                except Timeout as error:
                    raise busy(files, theirs, _holder(files, theirs)) from error
            lock.acquire()
    except Timeout as error:
        raise busy(files, part, _holder(files, part)) from error
    holder, token = folder / f"{name}.json", uuid.uuid4().hex
    try:
        atomic.write_bytes(holder, holder_json(token=token))
        yield Lease(part, token, check=lambda: None)
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def _holder(files: LocalFiles, part: Part) -> bytes:
    try:
        return files.read(f"{LEASES}/{lease_name(part)}.json")
    except OSError:
        return b""
