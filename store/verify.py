"""Verification of a store: every byte against the ledger, and the images that damage costs."""

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from store.errors import StoreError, StoreFormatError, StoreMissingError
from store.files import Url, files_at, one_line_for_os_errors, one_line_for_reads, reason_of
from store.fingerprint import sha256
from store.header import METADATA_FILE, Header, read_digests, read_header, read_spec
from store.lease import WHOLE, commit, writer_lease
from store.ledger import LEDGER, entry_file, parse_entry, parse_statistics
from store.spec import shard_file, shard_numbers

MISSING: Final = "is missing"
UNRECORDED: Final = "has no ledger entry: its write was interrupted, or the entry was lost"


@dataclass(frozen=True)
class Damage:
    """One file that is not as it was written, or could not be looked at, and what is wrong.

    `file` is a path inside the store, `images` are those of its shard, which are embedded again
    together; level and shard are None of metadata.
    """

    file: str
    what: str
    images: tuple[str, ...] = ()
    level: str | None = None
    shard: int | None = None


@dataclass(frozen=True)
class Report:
    """Findings of `verify`: shards that were read, their size, and what is wrong.

    Attributes:
        shards: 0 where metadata is damaged: shards are looked at once it was repaired.
        unread: What could not be looked at; it may be sound.
    """

    url: str
    shards: int
    size_bytes: int
    damage: tuple[Damage, ...]
    unread: tuple[Damage, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether all was read and is as it was written."""
        return not self.damage and not self.unread


def verify(path: Url, *, progress: Callable[[int, int], None] = lambda done, todo: None) -> Report:
    """Read a whole store and compare it with what its ledger says; hold one shard in memory.

    `progress` is called with shards done and shards to do.

    Raises:
        StoreMissingError: There is no store.
        StoreFormatError: The store has another format.
        StoreUnreadableError: Not even the list of its files can be read.
    """
    files = files_at(path)
    damage: list[Damage] = []
    unread: list[Damage] = []
    try:
        read_spec(files)
    except (StoreMissingError, StoreFormatError):
        raise
    except StoreError:
        pass  # is found below, with whatever else is wrong
    with one_line_for_reads(files.url):
        digests = read_digests(files)
        if digests is None:
            damage.append(Damage(METADATA_FILE, "is missing or damaged"))
        for name, digest in (digests or {}).items():
            try:
                data = files.read(name)
            except (OSError, MemoryError) as error:
                unread.append(Damage(name, f"cannot be read: {reason_of(error)}"))
            else:
                if data is None or sha256(data) != digest:
                    damage.append(Damage(name, MISSING if data is None else "is damaged"))
        if damage or unread:
            return Report(files.url, 0, 0, tuple(damage), tuple(unread))
        header = read_header(files)
        shards = sorted(_shards(header))
    size_bytes = 0
    for done, (level, shard) in enumerate(shards, start=1):
        images = tuple(image.image_id for image in header.wanted(shard) if image)
        try:
            found_bytes = files.size(shard_file(level, shard))
            size_bytes += found_bytes or 0
            if found := _shard_damage(header, level, shard, found_bytes):
                damage.append(Damage(*found, images, level, shard))
        except (OSError, MemoryError) as error:
            what = f"cannot be read: {reason_of(error)}"
            unread.append(Damage(shard_file(level, shard), what, images, level, shard))
        progress(done, len(shards))
    return Report(files.url, len(shards), size_bytes, tuple(damage), tuple(unread))


def discard(path: Url, damage: Iterable[Damage]) -> None:
    """Discard the records of what is damaged, so that the next `ssr embed` makes it anew.

    Shards lose their ledger entry; other files are deleted, as their writer derives them again.

    Raises:
        StoreError: The store is being written, or cannot be changed.
    """
    files = files_at(path)
    names = [
        one.file if one.level is None or one.shard is None else entry_file(one.level, one.shard)
        for one in damage
    ]
    with one_line_for_os_errors(files.url), writer_lease(files, WHOLE) as token:
        commit(files, WHOLE, token, [(name, None) for name in names])


def _shards(header: Header) -> set[tuple[str, int]]:
    """Return every shard that there is, should be, or has a ledger entry."""
    found = set()
    for level in header.spec.levels:
        names = [*header.files.names(level), *header.files.names(f"{LEDGER}/{level}")]
        found |= {(level, shard) for shard in shard_numbers(names)}
    for level in header.levels:
        found |= {(level, shard) for shard in header.shards if any(header.wanted(shard))}
    return found


def _shard_damage(
    header: Header, level: str, shard: int, found_bytes: int | None
) -> tuple[str, str] | None:
    """Check one shard of a size, None where it is missing, and its entry: file, what is wrong."""
    files, wanted = header.files, header.wanted(shard)
    name, ledger_name = shard_file(level, shard), entry_file(level, shard)
    entry_data = files.read(ledger_name)
    if not entry_data:  # empty: deleted in a bucket
        return (name, MISSING if found_bytes is None else UNRECORDED) if any(wanted) else None
    entry = parse_entry(entry_data, level, shard)
    try:
        parse_statistics(entry_data, header.grids[level].channels)
    except ValueError:
        entry = None
    if entry is None:
        return ledger_name, "is damaged"
    if entry.fingerprint != header.fingerprints[level] or not entry.holds(wanted):
        return ledger_name, "is of other images, another teacher or another scale"
    if found_bytes is None:
        return name, MISSING
    if found_bytes != entry.bytes:  # not read: it may be larger than the memory
        return name, "is damaged"
    data = files.read(name) or b""
    if len(data) != found_bytes:
        raise OSError(errno.EIO, "it ended while it was read", name)
    return None if sha256(data) == entry.digest else (name, "is damaged")
