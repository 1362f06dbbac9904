"""Who may write: one writer per part of a store, and none beside a writer of the whole.

A part (i, n) owns the shards whose number leaves i - 1 when divided by n; (1, 1) is the whole.
"""

import json
import os
import re
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import gcd
from typing import Final, TypeAlias

from store.errors import StoreBusyError, StoreError
from store.fingerprint import canonical_json
from store.ledger import LEDGER
from store.local import LocalFiles
from store.lock import name_of
from store.url import Files

Part: TypeAlias = tuple[int, int]
WHOLE: Final = (1, 1)
LEASES: Final = f"{LEDGER}/leases"

Check: TypeAlias = Callable[[], None]
"""Raises `StoreBusyError` once the lease is lost; to be called before every shard."""

Change: TypeAlias = tuple[str, bytes | memoryview | None]
"""A file of a store and what it is to hold; None takes it away."""


@dataclass(frozen=True)
class Lease:
    """The right to write a part of a store, as long as it is held.

    Attributes:
        part: Which shards.
        token: Names this lease among all that ever were.
        check: To be called in this process, before every shard.
    """

    part: Part
    token: str
    check: Check


def check_part(part: Part) -> None:
    """Refuse a part that is none.

    Raises:
        StoreError: It is not i of n with 1 <= i <= n.
    """
    if not 1 <= part[0] <= part[1]:
        raise StoreError(f"there is no part {part[0]}/{part[1]}: parts are 1/n to n/n")


def owns(part: Part, shard: int) -> bool:
    """Tell whether a shard belongs to a part."""
    return shard % part[1] == part[0] - 1


def overlap(one: Part, other: Part) -> bool:
    """Tell whether two parts share shards, if only there are enough of them."""
    return (one[0] - other[0]) % gcd(one[1], other[1]) == 0


def writer_lease(files: Files, part: Part) -> AbstractContextManager[Lease]:
    """Hold the right to write a part of a store.

    Raises:
        StoreBusyError: A writer of an overlapping part lives; the message names its pid and host.
        OSError: The place is not writable.
    """
    if isinstance(files, LocalFiles):
        from store import lease_local

        return lease_local.hold(files, part)
    from store import lease_s3
    from store.s3 import S3Files

    assert isinstance(files, S3Files)
    return lease_s3.hold(files, part)


def commit(files: Files, part: Part, token: str, changes: Sequence[Change]) -> None:
    """Write and delete files in this order, unless the lease has ended or went to somebody else.

    However long this process is held up between its look at the lease and the last of its
    changes: it changes nothing once another writer of the part has taken over.

    Raises:
        StoreBusyError: The lease is lost.
        OSError: The place is not writable.
    """
    if isinstance(files, LocalFiles):
        from store import lease_local

        return lease_local.commit(files, part, token, changes)
    from store import lease_s3
    from store.s3 import S3Files

    assert isinstance(files, S3Files)
    return lease_s3.commit(files, part, token, changes)


def require_held(files: Files, part: Part, token: str) -> None:
    """Refuse to write under a lease that has ended or went to somebody else.

    Raises:
        StoreBusyError: It has.
    """
    try:
        held = token_of(files.read(f"{LEASES}/{lease_name(part)}.json"))
    except FileNotFoundError:
        held = None
    if held != token:
        raise lost(files)


def lost(files: Files) -> StoreBusyError:
    """Return the error of a writer whose lease has ended or went to somebody else."""
    return StoreBusyError(
        f"the lease of this writer of {files.url} has ended, or another took over: run the command "
        "again, it continues after the shards that are done"
    )


def token_of(lease: bytes) -> str | None:
    """Return the token in the content of a lease; None of one that ended or is damaged."""
    try:
        return str(json.loads(lease)["token"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def lease_name(part: Part) -> str:
    """Return the name of a part's lease, without its suffix."""
    return f"{part[0]}-of-{part[1]}"


def part_of(name: str) -> Part | None:
    """Return the part that a file among the leases is about; None where it is about none."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})-of-([1-9][0-9]{0,8})\..+", name)
    return None if found is None else (int(found[1]), int(found[2]))


def holder_json(**more: str) -> bytes:
    """Say who this process is."""
    return canonical_json({"pid": os.getpid(), "host": socket.gethostname(), **more})


def busy(files: Files, part: Part, holder: bytes, hint: str = "") -> StoreBusyError:
    """Return the error that names who holds an overlapping part."""
    what = "" if part == WHOLE else f"part {part[0]}/{part[1]} of "
    return StoreBusyError(
        f"{what}the store {files.url} is being written by {name_of(holder)}: wait for it or "
        f"stop it, then run the command again{hint}"
    )
