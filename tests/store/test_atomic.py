import errno
import os
import stat
from pathlib import Path

import pytest

from store import atomic


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / ("x" * 255)  # the longest name
    atomic.write_text(path, "before")
    atomic.write_bytes(path, b"after")
    assert path.read_bytes() == b"after"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_without_a_name_is_an_os_error_as_others_are(tmp_path: Path) -> None:
    for folder in (tmp_path, Path(), Path("/")):
        with pytest.raises(IsADirectoryError):
            atomic.write_bytes(folder, b"")


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


def test_a_new_name_and_the_folders_that_were_made_for_it_are_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "folder" / "file"
    flushed: dict[int, bool] = {}

    def fsync(descriptor: int) -> None:
        flushed[os.fstat(descriptor).st_ino] = path.exists()

    monkeypatch.setattr(os, "fsync", fsync)
    atomic.write_bytes(path, b"data")
    above = [tmp_path, tmp_path / "new"]
    assert [flushed[folder.stat().st_ino] for folder in above] == [False, False]
    assert flushed[path.parent.stat().st_ino]  # once the name was there
    assert not flushed[path.stat().st_ino]


def test_a_file_system_that_flushes_no_folders_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    atomic.write_bytes(tmp_path / "new" / "file", b"data")
    assert (tmp_path / "new" / "file").read_bytes() == b"data"
