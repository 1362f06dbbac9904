"""Who may write what, and when: parts of a store, locally and in a bucket."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import lease_s3
from store.errors import StoreBusyError, StoreError, StoreIncompleteError
from store.lease import Part, lease_name, overlap, owns
from store.url import Url, files_at, join
from store.write import StoreWriter
from tests.store.worlds import LEVELS, SPEC, features_of, files, images, write

REPOSITORY = Path(__file__).parents[2]
IMAGES = images(14)
BIT8 = replace(SPEC, codec="int8")

parts = st.integers(1, 12).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n)))

HOLD_A_PART = """
import sys, time
from contextlib import ExitStack
from tests.store.test_lease import work

with ExitStack() as stack:
    work(sys.argv[1], (2, 3), stack, shards=1)
    sys.stdout.write("ready")
    sys.stdout.flush()
    time.sleep(600)
"""


def prepare(place: Url) -> None:
    with StoreWriter(place, SPEC, IMAGES, LEVELS):
        pass


def work(place: Url, part: Part, stack: ExitStack, *, shards: int = 100) -> int:
    """Write some shards of a part, and hold it until the stack ends."""
    writer = stack.enter_context(StoreWriter(place, SPEC, IMAGES, LEVELS, part=part))
    tasks = writer.pending()[:shards]
    for task in tasks:
        writer.write_shard(task, features_of(task))
    return len(tasks)


@given(parts, parts)
def test_parts_overlap_if_some_shard_belongs_to_both(one: Part, other: Part) -> None:
    shared = any(owns(one, shard) and owns(other, shard) for shard in range(one[1] * other[1]))
    assert overlap(one, other) == shared


@given(st.integers(1, 12), st.integers(0, 1000))
def test_every_shard_belongs_to_one_part(n: int, shard: int) -> None:
    assert sum(owns((i, n), shard) for i in range(1, n + 1)) == 1


def test_parts_at_once_make_the_bytes_of_one_writer(place: Url, tmp_path: Path) -> None:
    prepare(place)
    with ExitStack() as stack:
        assert [work(place, (i, 3), stack) for i in (1, 2, 3)] == [2, 2, 1]
    entry, tasks = write(place, IMAGES)
    assert tasks == []
    whole, _ = write(tmp_path / "whole", IMAGES)
    assert entry == whole
    assert files(join(place, entry.path)) == files(tmp_path / "whole" / entry.path)


@pytest.mark.parametrize("second", [(2, 3), (1, 1), (2, 2), (5, 6)])
def test_an_overlapping_part_is_refused_and_told_who_writes(place: Url, second: Part) -> None:
    prepare(place)
    who = f"process {os.getpid()} on host {socket.gethostname()}"
    with ExitStack() as stack:
        work(place, (2, 3), stack, shards=0)
        with pytest.raises(StoreBusyError, match=rf"part 2/3 of the store .* by {who}"):
            work(place, second, stack)
        work(place, (4, 6), stack, shards=0)
    write(place, IMAGES)


def test_a_part_waits_for_the_metadata(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreIncompleteError, match="run `ssr embed --init` first"),
        StoreWriter(tmp_path, SPEC, IMAGES, LEVELS, part=(1, 2)),
    ):
        pass
    prepare(tmp_path)
    with (
        pytest.raises(StoreIncompleteError, match="not ready for parts"),
        StoreWriter(tmp_path, SPEC, images(15), LEVELS, part=(1, 2)),
    ):
        pass
    with StoreWriter(tmp_path, BIT8, IMAGES, LEVELS):
        pass  # without scales
    with (
        pytest.raises(StoreIncompleteError, match="not ready for parts"),
        StoreWriter(tmp_path, BIT8, IMAGES, LEVELS, part=(1, 2)),
    ):
        pass


@pytest.mark.parametrize("part", [(0, 1), (3, 2), (-1, 4)])
def test_a_part_that_is_none_is_refused(tmp_path: Path, part: Part) -> None:
    with pytest.raises(StoreError, match="parts are 1/n to n/n"):
        StoreWriter(tmp_path, SPEC, IMAGES, LEVELS, part=part)


def killed_part(place: Url) -> None:
    """Let another process write one shard of part 2/3 and kill it."""
    command = [sys.executable, "-c", HOLD_A_PART, str(place)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.read(5) == b"ready"
        with (
            ExitStack() as stack,
            pytest.raises(StoreBusyError, match=f"part 2/3 .* by process {child.pid} on"),
        ):
            work(place, (2, 3), stack)
        child.send_signal(signal.SIGKILL)


@pytest.mark.costly
def test_a_killed_part_is_continued_at_once(tmp_path: Path) -> None:
    prepare(tmp_path)
    killed_part(tmp_path)
    with ExitStack() as stack:
        assert work(tmp_path, (2, 3), stack) == 1
        assert work(tmp_path, (1, 3), stack) == 2


def test_in_a_bucket_a_killed_part_is_continued_after_its_lease(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{bucket}/killed"
    prepare(place)
    killed_part(place)
    with (
        ExitStack() as stack,
        pytest.raises(StoreBusyError, match="if it was killed, its lease ends 60 s after"),
    ):
        work(place, (2, 3), stack)
    monkeypatch.setattr(lease_s3, "EXPIRY_S", 3.0)  # also that of the next writer
    time.sleep(4.1)  # the server's clock counts whole seconds
    with ExitStack() as stack:
        assert work(place, (2, 3), stack) == 1


def test_in_a_bucket_a_writer_that_slept_too_long_stops(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{bucket}/asleep"
    monkeypatch.setattr(lease_s3, "HEARTBEAT_S", 600.0)
    with StoreWriter(place, SPEC, IMAGES, LEVELS) as asleep:
        task = asleep.pending()[0]
        monkeypatch.setattr(lease_s3, "EXPIRY_S", 1.0)
        time.sleep(2.1)
        monkeypatch.setattr(lease_s3, "HEARTBEAT_S", 0.2)  # of those who are awake
        assert write(place, IMAGES)[1]
        before = files(asleep.path)
        with pytest.raises(StoreBusyError, match="lost its lease"):
            asleep.write_shard(task, features_of(task))
        assert files(asleep.path) == before


def test_in_a_bucket_a_heartbeat_keeps_the_lease(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{bucket}/alive"
    monkeypatch.setattr(lease_s3, "HEARTBEAT_S", 0.3)
    monkeypatch.setattr(lease_s3, "EXPIRY_S", 3.0)
    with StoreWriter(place, SPEC, IMAGES, LEVELS) as writer:
        time.sleep(5.0)
        with pytest.raises(StoreBusyError, match="is being written by process"):
            prepare(place)
        writer.write_shard(task := writer.pending()[0], features_of(task))
    names = files_at(writer.path).names("ledger/leases")
    assert names == ["1-of-1.json"]  # ended, and nothing else left behind
    prepare(place)


@pytest.mark.parametrize(("dead", "next_one"), [((1, 1), (1, 2)), ((1, 2), (1, 1))])
def test_who_wrote_for_a_killed_writer_writes_no_more_once_another_came(
    tmp_path: Path, dead: Part, next_one: Part
) -> None:
    prepare(tmp_path)
    writer = StoreWriter(tmp_path, SPEC, IMAGES, LEVELS, part=dead)
    with writer:
        task, orphan = writer.pending()[0], writer.shards
        held = files_at(writer.path).read(f"ledger/leases/{lease_name(dead)}.json")
    # As after `kill -9`: the kernel freed the lock, the name of the holder stayed.
    files_at(writer.path).write(f"ledger/leases/{lease_name(dead)}.json", held)
    files_at(writer.path).write(f"ledger/leases/{lease_name(dead)}.lock", b"")
    orphan.write(task, features_of(task))  # nobody else came yet
    with StoreWriter(tmp_path, SPEC, IMAGES, LEVELS, part=next_one):
        before = files(writer.path)
        with pytest.raises(StoreBusyError, match="has ended"):
            orphan.write(task, features_of(task))
        assert files(writer.path) == before
