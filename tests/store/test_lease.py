"""Who may write what, and when: parts of a store, locally and in a bucket."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import lease
from store.errors import StoreBusyError, StoreError, StoreIncompleteError
from store.files import LocalFiles, S3Files, Url, files_at, join
from store.lease import (
    LEASES,
    WHOLE,
    Part,
    lease_name,
    overlap,
    owns,
    require_held,
    writer_lease,
    writer_lock,
)
from store.shard_writer import ShardTask, ShardWriter
from store.spec import ImageEntry, StoreSpec
from store.write import StoreWriter
from tests.store.worlds import LEVELS, SPEC, changed, features_of, files, images, write

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


def test_parts_at_once_make_the_bytes_of_one_writer(place: Url, tmp_path: Path) -> None:
    prepare(place)
    with ExitStack() as stack:
        assert [work(place, (i, 3), stack) for i in (1, 2, 3)] == [2, 2, 1]
    entry, tasks = write(place, IMAGES)
    assert tasks == []
    whole, _ = write(tmp_path / "whole", IMAGES)
    assert entry == whole
    assert files(join(place, entry.path)) == files(tmp_path / "whole" / entry.path)


@pytest.mark.parametrize("second", [(1, 1), (5, 6)])
def test_an_overlapping_part_is_refused_and_told_who_writes(place: Url, second: Part) -> None:
    prepare(place)
    who = f"process {os.getpid()} on host {socket.gethostname()}"
    with ExitStack() as stack:
        work(place, (2, 3), stack, shards=0)
        with pytest.raises(StoreBusyError, match=rf"part 2/3 of the store .* by {who}"):
            work(place, second, stack)
        work(place, (4, 6), stack, shards=0)
    write(place, IMAGES)


@pytest.mark.parametrize(("spec", "count"), [(SPEC, 15), (BIT8, 14)])
def test_a_part_waits_for_slots_and_scales(tmp_path: Path, spec: StoreSpec, count: int) -> None:
    with StoreWriter(tmp_path, spec, IMAGES, LEVELS):
        pass
    with (
        pytest.raises(StoreIncompleteError, match="not ready for parts: run `ssr embed --init"),
        StoreWriter(tmp_path, spec, images(count), LEVELS, part=(1, 2)),
    ):
        pass


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
    monkeypatch.setattr(lease, "EXPIRY_S", 3.0)  # also that of the next writer
    time.sleep(4.1)  # the server's clock counts whole seconds
    with ExitStack() as stack:
        assert work(place, (2, 3), stack) == 1


def test_in_a_bucket_a_heartbeat_keeps_the_lease(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{bucket}/alive"
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.3)
    monkeypatch.setattr(lease, "EXPIRY_S", 3.0)
    with StoreWriter(place, SPEC, IMAGES, LEVELS) as writer:
        time.sleep(5.0)
        with pytest.raises(StoreBusyError, match="is being written by process"):
            prepare(place)
        writer.write_shard(task := writer.pending()[0], features_of(task))
    names = files_at(writer.path).names("ledger/leases")
    assert names == ["1-of-1.json"]  # ended, and nothing else left behind
    prepare(place)


def orphan(place: Path, wanted: Sequence[ImageEntry], part: Part) -> tuple[ShardWriter, ShardTask]:
    """A process that writes for a killed one: the kernel freed the lock, the holder's name stayed.

    Returns:
        What it writes with, and a shard that is to be written.
    """
    writer = StoreWriter(place, SPEC, wanted, LEVELS, part=part)
    name = f"ledger/leases/{lease_name(part)}"
    with writer:
        task, left = writer.pending()[0], writer.shards
        held = files_at(writer.path).read(f"{name}.json") or b""
    files_at(writer.path).write(f"{name}.json", held)
    files_at(writer.path).write(f"{name}.lock", b"")
    return left, task


@pytest.mark.parametrize(("dead", "next_one"), [((1, 1), (1, 2)), ((1, 2), (1, 1))])
def test_who_wrote_for_a_killed_writer_writes_no_more_once_another_came(
    tmp_path: Path, dead: Part, next_one: Part
) -> None:
    prepare(tmp_path)
    left, task = orphan(tmp_path, IMAGES, dead)
    left.write(task, features_of(task))  # nobody else came yet
    with StoreWriter(tmp_path, SPEC, IMAGES, LEVELS, part=next_one) as writer:
        before = files(writer.path)
        with pytest.raises(StoreBusyError, match="has ended"):
            left.write(task, features_of(task))
        assert files(writer.path) == before


def test_in_a_folder_nobody_takes_over_between_a_look_at_the_lease_and_the_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = write(tmp_path, IMAGES)
    before = files(tmp_path / first.path)
    left, task = orphan(tmp_path, [changed(IMAGES[0]), *IMAGES[1:]], WHOLE)
    monkeypatch.setattr(lease, "GATE_S", 0.1)

    def pause_after(*held: Any) -> None:  # noqa: ANN401
        require_held(*held)
        with pytest.raises(StoreBusyError, match=r"gate\.lock has been held .* let it continue"):
            write(tmp_path, IMAGES)

    with monkeypatch.context() as patch:
        patch.setattr("store.lease.require_held", pause_after)
        left.write(task, features_of(task))
    assert [task.shard for task in write(tmp_path, IMAGES)[1]] == [0]
    assert files(tmp_path / first.path) == before


@pytest.mark.parametrize("copies", [0, 2])
def test_in_a_bucket_who_pauses_between_look_and_write_changes_nothing_after_a_take_over(
    bucket: str, monkeypatch: pytest.MonkeyPatch, copies: int
) -> None:
    place = f"{bucket}/paused-{copies}"
    first, _ = write(place, IMAGES)
    before = files(join(place, first.path))
    monkeypatch.setattr(lease, "HEARTBEAT_S", 600.0)
    copy, left = S3Files.copy, copies

    def take_over_before(self: S3Files, name: str, new_name: str) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            monkeypatch.setattr(lease, "EXPIRY_S", 1.0)
            time.sleep(2.1)  # the server's clock counts whole seconds
            assert len(write(place, IMAGES)[1]) == min(copies, 1)  # nothing is replaced before
        copy(self, name, new_name)

    with StoreWriter(place, SPEC, [changed(IMAGES[0]), *IMAGES[1:]], LEVELS) as paused:
        (task,) = paused.pending()
        monkeypatch.setattr(S3Files, "copy", take_over_before)
        with pytest.raises(StoreBusyError, match="another took over") as caught:
            paused.write_shard(task, features_of(task))
    assert "\n" not in str(caught.value)
    assert files(join(place, first.path)) == before
    assert files_at(paused.path).names("ledger/leases") == ["1-of-1.json"]


def test_the_lost_answer_to_a_put_of_a_lease_is_no_other_writer(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.2)
    put, puts = S3Files.put, 0

    def put_twice(self: S3Files, name: str, data: bytes, tag: str | None) -> str:
        nonlocal puts
        puts += 1
        put(self, name, data, tag)
        return put(self, name, data, tag)  # as after an answer that never came

    with monkeypatch.context() as patch:
        patch.setattr(S3Files, "put", put_twice)
        with StoreWriter(f"{bucket}/lost", SPEC, IMAGES, LEVELS) as writer:
            time.sleep(1.0)
            writer.write_shard(task := writer.pending()[0], features_of(task))
    assert puts > 5
    write(f"{bucket}/lost", IMAGES)  # at once, as the lease was ended


def test_a_file_system_without_locks_is_not_another_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = write(tmp_path, IMAGES)

    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for hold in (writer_lease(LocalFiles(tmp_path), WHOLE), writer_lock(tmp_path, "the run")):
        with pytest.raises(StoreError, match=r"cannot lock .* knows no locks") as caught, hold:
            pass
        assert not isinstance(caught.value, StoreBusyError)
    assert write(tmp_path, IMAGES) == (first, [])  # nothing to write, nothing to lock


def test_a_complete_store_is_looked_at_and_neither_locked_nor_written(tmp_path: Path) -> None:
    entry, _ = write(tmp_path, IMAGES)
    with writer_lease(files_at(tmp_path / entry.path), WHOLE):
        assert write(tmp_path, IMAGES) == (entry, [])
        with ExitStack() as stack:
            assert [work(tmp_path, (i, 2), stack) for i in (1, 2)] == [0, 0]
        with pytest.raises(StoreBusyError):
            write(tmp_path, images(15))


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to(path.parents[4] / "made")]
)
def test_a_lock_that_is_a_pipe_or_leads_out_of_the_store_is_to_be_removed(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    leases = tmp_path / SPEC.relative_path / "ledger/leases"
    leases.mkdir(parents=True)
    make(leases / "1-of-1.lock")
    with pytest.raises(StoreError, match=r"write .*1-of-1\.lock.*; remove what is in the way"):
        write(tmp_path, IMAGES)
    assert not (tmp_path / "made").exists()


def test_a_lease_of_the_future_expires(bucket: str) -> None:
    here = S3Files(f"{bucket}/future")
    name = f"{LEASES}/1-of-1.json"
    here.write(name, b'{"pid": 1, "host": "h", "token": "t"}')
    data, tag, _ = here.state(name)
    with pytest.raises(StoreBusyError, match="process 1 on host h"), writer_lease(here, WHOLE):
        pass
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Files, "state", lambda *_: (data, tag, timedelta(days=-300)))
        with writer_lease(here, WHOLE):
            pass
