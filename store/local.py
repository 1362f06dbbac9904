"""Files in a local folder."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from store import atomic
from store.grid import shard_of
from store.url import checked_name, is_name

MOST_METADATA_BYTES = 2**28
"""The list of more than a million images."""


class LocalFiles:
    """The files below a local folder; see `store.url.Files`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)
        self._opened: dict[str, str] = {}  # so that windows of a shard look for links once

    def read(self, name: str) -> bytes:
        """Read a whole file."""
        with self.open(name) as file:
            if file.size_bytes > MOST_METADATA_BYTES and shard_of(name.rpartition("/")[2]) is None:
                raise OSError(errno.EFBIG, "larger than any metadata", file.url)
            try:
                return file.whole()
            except MemoryError as error:
                raise OSError(errno.ENOMEM, "not enough memory to read it", file.url) from error

    @contextmanager
    def open(self, name: str) -> Iterator["_LocalFile"]:
        """Open a file to read parts of it."""
        path = self._opened.get(name) or self._opened.setdefault(name, self.path(name))
        # Opening a pipe would wait for its writer, and a device may never end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            yield _LocalFile(path, descriptor, _size_of(os.fstat(descriptor), path))
        finally:
            os.close(descriptor)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a whole file by way of a temporary one beside it."""
        atomic.write_bytes(Path(self.path(name)), data)

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        path = self.path(name)
        return _size_of(Path(path).stat(), path)

    def names(self, folder: str) -> list[str]:
        """List the files directly in a folder, sorted; none where there is no folder."""
        try:
            with os.scandir(self.path(folder)) as entries:
                return sorted(e.name for e in entries if is_name(e.name) and e.is_file())
        except FileNotFoundError:
            return []

    def delete(self, name: str) -> None:
        """Delete a file unless there is none."""
        Path(self.path(name)).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove temporary files of writers that were killed."""
        for leftover in self.folder.rglob(f"*{atomic.TEMPORARY_SUFFIX}"):
            if leftover.is_file() and not leftover.is_symlink():
                leftover.unlink(missing_ok=True)  # its writer may live, and be done with it

    def path(self, name: str) -> str:
        """Return where a file or folder is; the place may be a link, and links may lead inside it.

        Raises:
            OSError: The name, or a link, leads out of the place.
        """
        path = self.url
        for part in checked_name(name).split("/"):
            path = f"{path}/{part}"
            if os.path.islink(path):  # noqa: PTH114 - a `Path` each would cost every window
                place = os.path.realpath(self.url)
                if os.path.commonpath([place, os.path.realpath(path)]) != place:
                    raise OSError(errno.EPERM, "a link leads out of the store", path)
        return path


def _size_of(state: os.stat_result, path: str) -> int:
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", path)
    return state.st_size


class _LocalFile:
    def __init__(self, url: str, descriptor: int, size_bytes: int) -> None:
        self.url = url
        self._descriptor = descriptor
        self.size_bytes = size_bytes

    def whole(self) -> bytes:
        with open(self._descriptor, "rb", closefd=False) as file:
            return file.read()

    def tail(self, length: int) -> NDArray[np.uint8]:
        length = min(length, self.size_bytes)
        return next(self.ranges([(self.size_bytes - length, length)]))

    def ranges(self, ranges: Sequence[tuple[int, int]]) -> Iterator[NDArray[np.uint8]]:
        # One buffer for all, so that it stays in the processor's cache from reading to copying.
        buffer = np.empty(max((length for _, length in ranges), default=0), np.uint8)
        for offset, length in ranges:
            part = buffer[: length if offset < self.size_bytes else 0]
            yield part[: os.preadv(self._descriptor, [part.data], offset)] if len(part) else part
