import os
from pathlib import Path

import pytest

from store import atomic


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    atomic.write_text(path, "before")
    atomic.write_bytes(path, b"after")
    assert path.read_bytes() == b"after"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    atomic.write_bytes(path, b"before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        atomic.write_bytes(path, b"after")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_updating_with_equal_bytes_does_not_touch_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert atomic.update_bytes(path, b"one")
    os.utime(path, ns=(1, 1))
    assert not atomic.update_bytes(path, b"one")
    assert path.stat().st_mtime_ns == 1
    assert atomic.update_bytes(path, b"two")
    assert path.read_bytes() == b"two"


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    atomic.write_bytes(path, b"data")
    assert path.read_bytes() == b"data"
