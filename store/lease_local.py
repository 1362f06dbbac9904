"""Leases in a local folder: locks that the kernel frees, also after `kill -9`."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from store import atomic
from store.errors import StoreBusyError
from store.lease import (
    LEASES,
    WHOLE,
    Change,
    Lease,
    Part,
    busy,
    holder_json,
    lease_name,
    overlap,
    part_of,
    require_held,
)
from store.local import LocalFiles
from store.lock import HeldError, file_lock

GATE_S = 10.0
"""The gate is held for milliseconds; whoever holds it longer has been stopped."""


@contextmanager
def hold(files: LocalFiles, part: Part) -> Iterator[Lease]:
    """Hold a part's lock; see `store.lease.writer_lease`.

    `<part>.lock` carries the lock and stays, empty, until the next writer of the whole;
    `<part>.json` names its holder and the token that every write checks.
    """
    atomic.make_folder(Path(files.path(LEASES)))
    name = f"{LEASES}/{lease_name(part)}"
    holder, token = Path(files.path(f"{name}.json")), uuid.uuid4().hex
    with ExitStack() as held:
        with _gate(files):
            for found in files.names(LEASES):
                theirs = part_of(found) if found.endswith(".lock") else None
                if theirs is None or theirs == part or not overlap(part, theirs):
                    continue
                other = Path(files.path(f"{LEASES}/{found}"))
                try:
                    with file_lock(other):
                        # Its writer is gone; processes that wrote for it learn that by this.
                        other.with_suffix(".json").unlink(missing_ok=True)
                        if part == WHOLE:
                            other.unlink()  # behind the gate nobody waits for it
                except HeldError as error:
                    raise busy(files, theirs, _holder(files, theirs)) from error
            try:
                held.enter_context(file_lock(Path(files.path(f"{name}.lock"))))
            except HeldError as error:
                raise busy(files, part, _holder(files, part)) from error
            atomic.write_bytes(holder, holder_json(token=token))
        try:
            yield Lease(part, token, check=lambda: None)
        finally:
            with suppress(OSError):
                holder.unlink()


def commit(files: LocalFiles, part: Part, token: str, changes: Sequence[Change]) -> None:
    """Put files in place; see `store.lease.commit`.

    Their bytes are on the disk before the gate is entered; behind it the lease is looked at and
    files are renamed, and no other writer can take over in between.
    """
    staged: dict[str, str] = {}
    try:
        for name, data in changes:
            if data is not None:
                staged[name] = f"{name}.{uuid.uuid4().hex}{atomic.TEMPORARY_SUFFIX}"
                files.write(staged[name], data)
        with _gate(files):
            require_held(files, part, token)
            for name, data in changes:
                if data is None:
                    files.delete(name)
                else:
                    atomic.move(Path(files.path(staged.pop(name))), Path(files.path(name)))
    finally:
        for temporary in staged.values():
            with suppress(OSError):
                files.delete(temporary)


@contextmanager
def _gate(files: LocalFiles) -> Iterator[None]:
    """Let one process at a time take a lease or put files in place."""
    path = Path(files.path(f"{LEASES}/gate.lock"))
    with ExitStack() as held:
        try:
            held.enter_context(file_lock(path, GATE_S))
        except HeldError as error:
            raise StoreBusyError(
                f"{path} has been held for {GATE_S:.0f} s by another process, which must have been "
                "stopped while it wrote: let it continue or end it, then run the command again"
            ) from error
        yield


def _holder(files: LocalFiles, part: Part) -> bytes:
    try:
        return files.read(f"{LEASES}/{lease_name(part)}.json")
    except OSError:
        return b""
