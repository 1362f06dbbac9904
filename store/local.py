"""Files in a local folder."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from store import atomic


class LocalFiles:
    """The files below a local folder; see `store.url.Files`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)

    def read(self, name: str) -> bytes:
        """Read a whole file."""
        return (self.folder / name).read_bytes()

    @contextmanager
    def open(self, name: str) -> Iterator["_LocalFile"]:
        """Open a file to read parts of it."""
        path = f"{self.url}/{name}"
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield _LocalFile(path, descriptor)
        finally:
            os.close(descriptor)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a whole file by way of a temporary one beside it."""
        atomic.write_bytes(self.folder / name, data)

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return (self.folder / name).stat().st_size

    def names(self, folder: str) -> list[str]:
        """List the files directly in a folder, sorted; none where there is no folder."""
        try:
            return sorted(e.name for e in os.scandir(self.folder / folder) if e.is_file())
        except FileNotFoundError:
            return []

    def delete(self, name: str) -> None:
        """Delete a file unless there is none."""
        (self.folder / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove temporary files of writers that were killed."""
        for leftover in self.folder.rglob(f"*{atomic.TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)  # its writer may live, and be done with it


class _LocalFile:
    def __init__(self, url: str, descriptor: int) -> None:
        self.url = url
        self._descriptor = descriptor

    def tail(self, length: int) -> NDArray[np.uint8]:
        start = max(0, os.fstat(self._descriptor).st_size - length)
        return next(self.ranges([(start, length)]))

    def ranges(self, ranges: Sequence[tuple[int, int]]) -> Iterator[NDArray[np.uint8]]:
        # One buffer for all, so that it stays in the processor's cache from reading to copying.
        buffer = np.empty(max((length for _, length in ranges), default=0), np.uint8)
        for offset, length in ranges:
            part = buffer[:length]
            yield part[: os.preadv(self._descriptor, [part.data], offset)]
