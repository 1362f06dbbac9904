"""Leases: one writer per part of a store, none beside a writer of the whole, and one per folder.

A part (i, n) owns the shards whose number leaves i - 1 when divided by n; (1, 1) is the whole.
store/README.md says how folders and buckets hold leases, and why no two writers can meet.
"""

import errno
import fcntl
import logging
import os
import re
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from math import gcd
from pathlib import Path
from time import monotonic, sleep
from typing import Annotated, Final, TypeAlias

from pydantic import BaseModel, Field, ValidationError

from store import atomic
from store.errors import StoreBusyError, StoreError
from store.files import Files, LocalFiles, S3Files
from store.fingerprint import canonical_json
from store.ledger import LEDGER

Part: TypeAlias = tuple[int, int]
WHOLE: Final = (1, 1)
LEASES: Final = f"{LEDGER}/leases"

Change: TypeAlias = tuple[str, bytes | memoryview | None]
"""A file of a store and what it is to hold; None takes it away."""

GATE_S = 10.0
"""The gate is held for milliseconds; whoever holds it longer has been stopped."""

HEARTBEAT_S = 10.0
EXPIRY_S = 60.0
"""A writer in a bucket that gave no sign of life for so long is taken for dead."""

_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems say that know no locks: NFS without its lock service, Lustre without flock."""

_POLL_S: Final = 0.05
_ENDED: Final = b'{"ended":true}\n'
_SUFFIX: Final = ".json"
"""Of leases; objects without it wait to be copied into their places."""

log = logging.getLogger(__name__)


def owns(part: Part, shard: int) -> bool:
    """Tell whether a shard belongs to a part."""
    return shard % part[1] == part[0] - 1


def overlap(one: Part, other: Part) -> bool:
    """Tell whether two parts share shards, if only there are enough of them."""
    return (one[0] - other[0]) % gcd(one[1], other[1]) == 0


def writer_lease(files: Files, part: Part) -> AbstractContextManager[str]:
    """Hold the right to write a part of a store; yield the token that names this lease.

    Raises StoreBusyError, which names pid and host, where a writer of an overlapping part lives.
    """
    if isinstance(files, LocalFiles):
        return _hold_in_folder(files, part)
    return _hold_in_bucket(files, part)


def commit(files: Files, part: Part, token: str, changes: Sequence[Change]) -> None:
    """Write and delete files in this order, unless the lease has ended or went to somebody else.

    However long this process is held up between its look at the lease and the last of its
    changes: it changes nothing once another writer of the part has taken over, but raises
    StoreBusyError. In a bucket what is deleted becomes empty.
    """
    if isinstance(files, LocalFiles):
        _commit_in_folder(files, part, token, changes)
    else:
        _commit_in_bucket(files, part, token, changes)


def require_held(files: Files, part: Part, token: str) -> None:
    """Raise StoreBusyError where a lease has ended or went to somebody else."""
    if _parse(files.read(_file_of(part))).token != token:
        raise _lost(files)


@contextmanager
def writer_lock(folder: Path, what: str) -> Iterator[None]:
    """Hold the writer's lock of a folder that is not a store; `what` is written there.

    `writer.lock` carries the lock and stays, empty; `writer.json` only names its holder.
    StoreBusyError, which names pid and host, where another process holds the lock.
    """
    with _named_lock(folder / "writer.lock", what, _holder_json()):
        yield


def lease_name(part: Part) -> str:
    """Return the name of a part's lease, without its suffix."""
    return f"{part[0]}-of-{part[1]}"


def _file_of(part: Part) -> str:
    return f"{LEASES}/{lease_name(part)}{_SUFFIX}"


def _overlapping(name: str, part: Part) -> Part | None:
    """Return the part that a file among the leases is about, if it shares shards with another."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})-of-([1-9][0-9]{0,8})\..+", name)
    theirs = None if found is None else (int(found[1]), int(found[2]))
    return theirs if theirs is not None and overlap(part, theirs) else None


class _Holder(BaseModel):
    pid: int | None = None
    host: Annotated[str, Field(max_length=255)] = ""
    token: str | None = None


def _parse(holder: bytes | None) -> _Holder:
    """Read a lease or the file beside a lock, which anybody may have written; empty if damaged."""
    try:
        return _Holder.model_validate_json(holder or b"")
    except ValidationError:
        return _Holder()


def _holder_json(**more: str) -> bytes:
    return canonical_json({"pid": os.getpid(), "host": socket.gethostname(), **more})


def _about(files: Files, part: Part) -> str:
    what = "" if part == WHOLE else f"part {part[0]}/{part[1]} of "
    return f"{what}the store {files.url}"


def _busy(what: str, holder: bytes | None, hint: str = "") -> StoreBusyError:
    """Return the error that names who writes, from the content of a lease."""
    found = _parse(holder)
    known = found.pid is not None and found.host.isprintable()
    name = f"process {found.pid} on host {found.host}" if known else "another process"
    return StoreBusyError(
        f"{what} is being written by {name}: wait for it or stop it, then run the command again"
        f"{hint}"
    )


def _lost(files: Files) -> StoreBusyError:
    return StoreBusyError(
        f"the lease of this writer of {files.url} has ended, or another took over: run the command "
        "again, it continues after the shards that are done"
    )


@contextmanager
def _hold_in_folder(files: LocalFiles, part: Part) -> Iterator[str]:
    """Lock `<part>.lock`, which stays; `<part>.json` has the token that every write checks."""
    atomic.make_folder(files.path(LEASES))
    token = uuid.uuid4().hex
    with ExitStack() as held:
        with _gate(files):
            for found in files.names(LEASES):
                theirs = _overlapping(found, part) if found.endswith(".lock") else None
                if theirs is None or theirs == part:
                    continue
                other = files.path(f"{LEASES}/{found}")
                with _lock(other, partial(_busy_by, other, _about(files, theirs))):
                    # Its writer is gone; processes that wrote for it learn that by this.
                    other.with_suffix(_SUFFIX).unlink(missing_ok=True)
                    if part == WHOLE:
                        other.unlink()  # behind the gate nobody waits for it
            files.path(_file_of(part))  # no link may lead elsewhere
            lock = files.path(f"{LEASES}/{lease_name(part)}.lock")
            what = _about(files, part)
            held.enter_context(_named_lock(lock, what, _holder_json(token=token)))
        yield token


def _commit_in_folder(files: LocalFiles, part: Part, token: str, changes: Sequence[Change]) -> None:
    """Flush all bytes to the disk, then look at the lease and rename files behind the gate."""
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
                    atomic.move(files.path(staged.pop(name)), files.path(name))
    finally:
        for temporary in staged.values():
            with suppress(OSError):
                files.delete(temporary)


def _gate(files: LocalFiles) -> AbstractContextManager[None]:
    """Let one process at a time take a lease or put files in place."""
    path = files.path(f"{LEASES}/gate.lock")
    stopped = StoreBusyError(
        f"{path} has been held for {GATE_S:.0f} s, by a process that must have been stopped while "
        f"it wrote: let it continue or end it (a {_SUFFIX} file beside the lock names it), then "
        "run the command again"
    )
    return _lock(path, lambda: stopped, GATE_S)


@contextmanager
def _named_lock(path: Path, what: str, holder: bytes) -> Iterator[None]:
    """Hold the lock of a file, and name its holder in a file beside it."""
    with _lock(path, partial(_busy_by, path, what)):
        try:
            atomic.write_bytes(path.with_suffix(_SUFFIX), holder)
            yield
        finally:
            with suppress(OSError):
                path.with_suffix(_SUFFIX).unlink()


def _busy_by(lock: Path, what: str) -> StoreBusyError:
    try:
        return _busy(what, atomic.read_bytes(lock.with_suffix(_SUFFIX)))
    except OSError:
        return _busy(what, None)


@contextmanager
def _lock(path: Path, busy: Callable[[], StoreBusyError], timeout_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file, which stays; raise what `busy` returns where another holds it."""
    end = monotonic() + timeout_s
    with os.fdopen(atomic.open_regular(path, os.O_RDWR | os.O_CREAT), "rb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if monotonic() >= end:
                    raise busy() from error
                sleep(_POLL_S)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                raise StoreError(
                    f"cannot lock {path}: its file system knows no locks ({error.strerror}); mount "
                    "it with locks (Lustre: flock), or write elsewhere and copy the result there: "
                    "reading needs no lock"
                ) from error
        yield


@contextmanager
def _hold_in_bucket(files: S3Files, part: Part) -> Iterator[str]:
    lease = _BucketLease(files, part)
    beat = threading.Thread(target=lease.keep_alive, name="lease", daemon=True)
    beat.start()  # before looking at others, which may take longer than the lease lasts
    try:
        lease.end_others()
        yield lease.token
    finally:
        lease.stopped.set()
        beat.join(HEARTBEAT_S)
        if not beat.is_alive():  # caught in a request to a server that is gone: the lease expires
            lease.end()


def _commit_in_bucket(files: S3Files, part: Part, token: str, changes: Sequence[Change]) -> None:
    staged: list[tuple[str, str]] = []
    try:
        for name, data in changes:
            if data is not None or files.size(name) is not None:
                place = f"{LEASES}/{lease_name(part)}.{token}.{uuid.uuid4().hex}"
                staged.append((place, name))
                files.write(place, data or b"")
        require_held(files, part, token)
        for place, name in staged:
            try:
                files.copy(place, name)
            except FileNotFoundError as error:
                raise _lost(files) from error
    finally:
        with suppress(OSError):  # the next writer deletes them
            for place, _ in staged:
                files.delete(place)


class _BucketLease:
    def __init__(self, files: S3Files, part: Part) -> None:
        self.stopped = threading.Event()
        self.token = uuid.uuid4().hex
        self._files, self._part = files, part
        self._name = _file_of(part)
        try:
            self._tag = self._put(None)
        except FileExistsError:
            self._tag = self._take_over(self._name, part, self._put)

    def end_others(self) -> None:
        """End overlapping leases of dead writers, so that one that only slept learns of it.

        Then delete what they left to be copied: they copy nothing any more.
        """
        for name in self._files.names(LEASES):
            theirs = _overlapping(name, self._part)
            if theirs is not None and theirs != self._part and name.endswith(_SUFFIX):
                place = f"{LEASES}/{name}"
                self._take_over(place, theirs, partial(self._files.put, place, _ENDED))
        for name in self._files.names(LEASES):
            if _overlapping(name, self._part) is not None and not name.endswith(_SUFFIX):
                self._files.delete(f"{LEASES}/{name}")

    def keep_alive(self) -> None:
        while not self.stopped.wait(HEARTBEAT_S):
            try:
                self._tag = self._put(self._tag)
            except (FileExistsError, FileNotFoundError):
                return  # another took over, as the next look at the lease will show
            except OSError as error:
                log.warning("no heartbeat to %s: %s", self._files.url, error)

    def end(self) -> None:
        with suppress(OSError):  # whoever took over keeps it; otherwise it expires
            self._put(self._tag, _ENDED)

    def _take_over(self, name: str, theirs: Part, put: Callable[[str], str]) -> str:
        """Write over a lease that ended or expired, and return its new tag."""
        hint = f"; if it was killed, its lease ends {EXPIRY_S:.0f} s after its last sign of life"
        holder, tag, age = self._files.state(name)
        # One of the future was written before the server's clock was set back.
        if holder == _ENDED or abs(age.total_seconds()) > EXPIRY_S:
            with suppress(FileExistsError):
                return put(tag)
        raise _busy(_about(self._files, theirs), self._files.read(name), hint)

    def _put(self, tag: str | None, data: bytes | None = None) -> str:
        """Write this lease over the one with a tag, or where there is none; return its tag.

        FileExistsError where somebody else wrote it. This writer may have as well: where the answer
        to a put is lost, its repetition is refused.
        """
        # Equal bytes would have equal tags, and a condition on the tag would then mean nothing.
        data = data or _holder_json(token=self.token, beat=uuid.uuid4().hex)
        try:
            return self._files.put(self._name, data, tag)
        except FileExistsError:
            holder, found, _ = self._files.state(self._name)
            if _parse(holder).token != self.token:
                raise
            return self._files.put(self._name, data, found)
