"""Files that are either as before or complete, also after `kill -9` or a power cut."""

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES)
"""What file systems say that cannot flush a folder, and folders that can be written, not read."""

TEMPORARY_SUFFIX = ".partial"
"""Ending of a file that is being written; one that is left over was interrupted."""


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file, and return its descriptor; a pipe is an OSError and not waited for."""
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "is not a regular file", str(path))


def read_bytes(path: Path) -> bytes:
    """Read a regular file; see `open_regular`."""
    with open(open_regular(path, os.O_RDONLY), "rb") as file:
        return file.read()


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file by way of a temporary one beside it, creating its folder where needed.

    Raises:
        OSError: The disk is full or not writable; it names the file, which is as it was.
    """
    make_folder(path.parent)
    # a name may have 255 bytes: of a long one the beginning is enough
    with replacing(path, f"{path.name[:60]}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}") as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file as `write_bytes` does."""
    write_bytes(path, text.encode())


def update_bytes(path: Path, data: bytes) -> bool:
    """Write a file unless it holds exactly these bytes already; tell whether it was written.

    An unchanged file keeps its modification time, which DVC and make look at.
    """
    try:
        if read_bytes(path) == data:
            return False
    except FileNotFoundError:
        pass
    write_bytes(path, data)
    return True


@contextmanager
def replacing(path: Path, temporary_name: str) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place at the end of the block.

    Raises:
        OSError: The disk is full or not writable; it names `path`, which is as it was.
    """
    if not path.name:  # as of `.`
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(temporary_name)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        move(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # a full disk names no file by itself
        raise


def move(temporary: Path, path: Path) -> None:
    """Let a file that was flushed take the place of another in its folder."""
    temporary.replace(path)
    _flush_folder(path.parent)  # a power cut must not undo the rename


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, so that a power cut leaves them there."""
    if not folder.is_dir():
        make_folder(folder.parent)
        if folder.is_symlink() and not folder.exists():
            raise OSError(errno.ELOOP, "is a link to nothing", str(folder))
        folder.mkdir(exist_ok=True)
        _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
