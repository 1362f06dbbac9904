"""Leases in a bucket: objects that are written on conditions, and kept alive by a heartbeat.

Every change of a lease is a put on the condition that nobody else changed it since, so that of two
writers one wins. A writer announces itself first and looks at overlapping parts then: of two that
come at once at least one sees the other. Times are the server's alone; no clock here matters.
"""

import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

from store.errors import StoreBusyError
from store.lease import LEASES, Lease, Part, busy, holder_json, lease_name, overlap, part_of
from store.s3 import S3Files

HEARTBEAT_S = 10.0
EXPIRY_S = 60.0
"""A writer that gave no sign of life for so long is taken for dead, and must take itself for it."""

log = logging.getLogger(__name__)


@contextmanager
def hold(files: S3Files, part: Part) -> Iterator[Lease]:
    """Hold a part's lease; see `store.lease.writer_lease`."""
    lease = _Lease(files, part)
    try:
        lease.refuse_overlapping()
    except BaseException:
        lease.end()
        raise
    beat = threading.Thread(target=lease.keep_alive, name="lease", daemon=True)
    beat.start()
    try:
        yield Lease(part, lease.token, lease.check)
    finally:
        lease.stopped.set()
        beat.join()
        lease.end()


class _Lease:
    def __init__(self, files: S3Files, part: Part) -> None:
        self.stopped = threading.Event()
        self._files, self._part, self._lost = files, part, False
        self._name = f"{LEASES}/{lease_name(part)}.json"
        self.token = uuid.uuid4().hex
        self._alive_at = monotonic()
        try:
            self._tag = files.create(self._name, self._alive())
        except FileExistsError:
            holder, tag = self._other(self._name)
            if holder is not None:
                raise busy(files, part, holder, _HINT) from None
            try:
                self._tag = files.replace(self._name, self._alive(), tag)
            except FileExistsError:
                raise busy(files, part, files.read(self._name), _HINT) from None

    def refuse_overlapping(self) -> None:
        for name in self._files.names(LEASES):
            theirs = part_of(name)
            if theirs is None or theirs == self._part or not overlap(self._part, theirs):
                continue
            holder, tag = self._other(f"{LEASES}/{name}")
            if holder is not None:
                raise busy(self._files, theirs, holder, _HINT)
            with suppress(FileExistsError):  # so that one that only slept learns that it is dead
                self._files.replace(f"{LEASES}/{name}", _ENDED, tag)
                continue
            raise busy(self._files, theirs, self._files.read(f"{LEASES}/{name}"), _HINT)

    def keep_alive(self) -> None:
        while not self.stopped.wait(HEARTBEAT_S):
            at = monotonic()
            try:
                self._tag = self._files.replace(self._name, self._alive(), self._tag)
                self._alive_at = at
            except (FileExistsError, FileNotFoundError):
                self._lost = True
                return
            except OSError as error:
                log.warning("no heartbeat to %s: %s", self._files.url, error)

    def check(self) -> None:
        if self._lost or monotonic() - self._alive_at > EXPIRY_S:
            raise StoreBusyError(
                f"this writer gave no sign of life to {self._files.url} for {EXPIRY_S:.0f} s and "
                "lost its lease: run the command again, it continues after the shards that are done"
            )

    def end(self) -> None:
        with suppress(OSError):  # whoever took over keeps it; otherwise it expires
            self._files.replace(self._name, _ENDED, self._tag)

    def _alive(self) -> bytes:
        # Equal bytes would have equal tags, and a condition on the tag would then mean nothing.
        return holder_json(token=self.token, beat=uuid.uuid4().hex)

    def _other(self, name: str) -> tuple[bytes | None, str]:
        """Return who holds a lease, None where it ended or expired, and its tag."""
        tag, seen_at = self._files.state(name)
        holder = self._files.read(name)
        clock = f"{LEASES}/clock-{uuid.uuid4().hex}"
        self._files.write(clock, b"")
        _, now = self._files.state(clock)
        self._files.delete(clock)
        if holder == _ENDED or (now - seen_at).total_seconds() > EXPIRY_S:
            return None, tag
        return holder, tag


_HINT = f"; if it was killed, its lease ends {EXPIRY_S:.0f} s after its last sign of life"
_ENDED = b'{"ended":true}\n'
