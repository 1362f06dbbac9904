"""Leases in a bucket: objects that are written on conditions, and kept alive by a heartbeat.

Every change of a lease is a put on the condition that nobody else changed it since, so that of two
writers one wins. A writer announces itself first and looks at overlapping parts then: of two that
come at once at least one sees the other. Times are the server's alone; no clock here matters.
"""

import logging
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic, sleep

from store.errors import StoreBusyError
from store.lease import (
    LEASES,
    Change,
    Lease,
    Part,
    busy,
    holder_json,
    lease_name,
    lost,
    overlap,
    part_of,
    require_held,
    token_of,
)
from store.s3 import S3Files
from store.url import exists

HEARTBEAT_S = 10.0
EXPIRY_S = 60.0
"""A writer that gave no sign of life for so long is taken for dead, and must take itself for it."""

log = logging.getLogger(__name__)


@contextmanager
def hold(files: S3Files, part: Part) -> Iterator[Lease]:
    """Hold a part's lease; see `store.lease.writer_lease`."""
    lease = _Lease(files, part)
    beat = threading.Thread(target=lease.keep_alive, name="lease", daemon=True)
    beat.start()  # before looking at others, which may take longer than the lease lasts
    try:
        lease.refuse_overlapping()
        lease.discard_staged()
        yield Lease(part, lease.token, lease.check)
    finally:
        lease.stopped.set()
        beat.join(HEARTBEAT_S)
        if not beat.is_alive():  # caught in a request to a server that is gone: the lease expires
            lease.end()


def commit(files: S3Files, part: Part, token: str, changes: Sequence[Change]) -> None:
    """Put files in place; see `store.lease.commit`. What is taken away becomes empty."""
    staged: list[tuple[str, str]] = []
    try:
        for name, data in changes:
            if data is not None or exists(files, name):
                place = f"{LEASES}/{lease_name(part)}.{token}.{uuid.uuid4().hex}"
                staged.append((place, name))
                files.write(place, data or b"")
        require_held(files, part, token)
        for place, name in staged:
            try:
                files.copy(place, name)
            except FileNotFoundError as error:
                raise lost(files) from error
    finally:
        with suppress(OSError):  # the next writer deletes them
            files.delete_all([place for place, _ in staged])


class _Lease:
    def __init__(self, files: S3Files, part: Part) -> None:
        self.stopped = threading.Event()
        self._files, self._part, self._lost = files, part, False
        self._name = f"{LEASES}/{lease_name(part)}.json"
        self.token = uuid.uuid4().hex
        self._alive_at = monotonic()
        try:
            self._tag = self._put(None)
        except FileExistsError:
            holder, tag = self._other(self._name)
            if holder is not None:
                raise busy(files, part, holder, _HINT) from None
            self._alive_at = monotonic()  # the look may have taken long
            try:
                self._tag = self._put(tag)
            except FileExistsError:
                raise busy(files, part, files.read(self._name), _HINT) from None

    def refuse_overlapping(self) -> None:
        for name in self._files.names(LEASES):
            theirs = self._overlapping(name)
            if theirs is None or theirs == self._part or not name.endswith(_SUFFIX):
                continue
            holder, tag = self._other(f"{LEASES}/{name}")
            if holder is not None:
                raise busy(self._files, theirs, holder, _HINT)
            with suppress(FileExistsError):  # so that one that only slept learns that it is dead
                self._files.replace(f"{LEASES}/{name}", _ENDED, tag)
                continue
            raise busy(self._files, theirs, self._files.read(f"{LEASES}/{name}"), _HINT)

    def discard_staged(self) -> None:
        """Delete what writers that are over left to be copied: they copy nothing any more."""
        for name in self._files.names(LEASES):
            if self._overlapping(name) is not None and not name.endswith(_SUFFIX):
                self._files.delete(f"{LEASES}/{name}")

    def keep_alive(self) -> None:
        while not self.stopped.wait(HEARTBEAT_S):
            at = monotonic()
            try:
                self._tag = self._put(self._tag)
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
            self._put(self._tag, _ENDED)

    def _put(self, tag: str | None, data: bytes | None = None) -> str:
        """Write this lease over the one with a tag, or where there is none; return its tag.

        Raises:
            FileExistsError: Somebody else wrote it. This writer may have as well: where the answer
                to a put is lost, its repetition is refused.
        """
        # Equal bytes would have equal tags, and a condition on the tag would then mean nothing.
        data = data or holder_json(token=self.token, beat=uuid.uuid4().hex)
        try:
            if tag is None:
                return self._files.create(self._name, data)
            return self._files.replace(self._name, data, tag)
        except FileExistsError:
            found = self._files.state(self._name)
            if token_of(found.data) != self.token:
                raise
            return self._files.replace(self._name, data, found.tag)

    def _overlapping(self, name: str) -> Part | None:
        """Return the part that a file among the leases is about, if it shares shards with this."""
        part = part_of(name)
        return part if part is not None and overlap(self._part, part) else None

    def _other(self, name: str) -> tuple[bytes | None, str]:
        """Return who holds a lease, None where it ended or expired, and its tag."""
        holder, tag, age = self._files.state(name)
        if age.total_seconds() < -EXPIRY_S and holder != _ENDED:
            sleep(EXPIRY_S)  # the server's clock was set back: a writer that lives changes the tag
            before = tag
            holder, tag, age = self._files.state(name)
            return (None if tag == before else holder), tag
        if holder == _ENDED or age.total_seconds() > EXPIRY_S:
            return None, tag
        return holder, tag


_HINT = f"; if it was killed, its lease ends {EXPIRY_S:.0f} s after its last sign of life"
_ENDED = b'{"ended":true}\n'
_SUFFIX = ".json"
"""Of leases; files without it wait to be copied into their places."""
