"""Where stores live: a local folder or a prefix of an S3 bucket, behind one small interface."""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from store.errors import ConfigError, StoreError, StoreUnreadableError

Url: TypeAlias = Path | str
"""A local folder, as a `Path` or a string, or `s3://bucket/prefix`."""

S3 = "s3://"

_NAME: Final = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)*", re.ASCII)


class OpenFile(Protocol):
    """One file that is being read; locally it stays the same while it is replaced."""

    url: str

    def tail(self, length: int) -> NDArray[np.uint8]:
        """Read the last bytes; fewer where the file is shorter."""

    def ranges(self, ranges: Sequence[tuple[int, int]]) -> Iterator[NDArray[np.uint8]]:
        """Read (offset, length) each; fewer bytes where the file ends. Valid until the next."""


class Files(Protocol):
    """The files below one place; names are POSIX paths below it, as `is_name` knows them.

    Whatever goes wrong is an `OSError`, a `FileNotFoundError` only where there is no such file, so
    any other says nothing about the file. Names and links that lead out of the place are refused.
    """

    url: str

    def read(self, name: str) -> bytes:
        """Read a whole file."""

    def open(self, name: str) -> AbstractContextManager[OpenFile]:
        """Open a file to read parts of it."""

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a whole file, which is as before or complete at any instant."""

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""

    def names(self, folder: str) -> list[str]:
        """List the files directly in a folder, sorted, without the folder's name.

        Files that no store has are passed over, such as the `._*` of macOS.
        """

    def delete(self, name: str) -> None:
        """Delete a file unless there is none."""

    def sweep(self) -> None:
        """Remove what writers that were killed left half-written; none may live."""


def is_name(name: str) -> bool:
    """Tell whether a file of a store can have this name: `a/b.c`, no part begins with a dot."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """Return the name of a file, or "" for the place itself.

    Raises:
        OSError: No file of a store can have it; it might lead somewhere else.
    """
    if name and not is_name(name):
        raise OSError(errno.EINVAL, "no file of a store has such a name", name)
    return name


def parse_url(text: str) -> Url:
    """Turn text into a `Path`, `~` expanded, or keep it where it is no local folder."""
    return text if "://" in text else local_path(text)


def local_path(text: str) -> Path:
    """Turn text into a `Path`, `~` expanded.

    Raises:
        ConfigError: It begins with the home of a user that there is not.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{text}: there is no such user; write the path out") from error


def is_known(text: str) -> bool:
    """Tell whether text names a place that stores can be at: a folder, or a prefix on S3."""
    if "://" not in text:
        return True
    prefix = text.removeprefix(S3).strip("/")
    return text.startswith(S3) and bool(prefix) and "?" not in prefix  # s3fs reads ?versionId=


def join(url: Url, name: str) -> Url:
    """Return the url of what lies below another."""
    return url / name if isinstance(url, Path) else f"{url.rstrip('/')}/{name}"


def absolute(url: Url) -> Url:
    """Return a url that means the same in any folder."""
    if isinstance(url, str) and "://" in url:
        return url.rstrip("/")
    return Path(url).absolute()


def stores_of(url: Url) -> Url:
    """Return the url of all stores from that of one, `<url>/<domain>/<fingerprint8>.zarr`."""
    whole = absolute(url)
    return whole.parents[1] if isinstance(whole, Path) else whole.rsplit("/", 2)[0]


def files_at(url: Url) -> Files:
    """Return the files at a url; nothing is looked at yet.

    Raises:
        StoreError: The url is neither local nor on S3, or S3 needs a package that is not installed.
    """
    if isinstance(url, Path) or "://" not in url:
        from store.local import LocalFiles

        return LocalFiles(Path(url))
    if is_known(url):
        from store.s3 import S3Files

        return S3Files(url)
    raise StoreError(f"the store url {url} is neither a folder nor {S3}bucket/prefix: change it")


@contextmanager
def one_line_for_os_errors(url: Url) -> Iterator[None]:
    """Turn an `OSError` of a write into a `StoreError`."""
    try:
        yield
    except OSError as error:
        cure = "make room or set permissions"
        if str(url).startswith(S3):
            cure = "wait, or check the bucket, your permissions and the network,"
        raise StoreError(
            f"cannot write {_file_of(url, error)}: {error.strerror or error}; {cure} and run the "
            "command again, it continues after the shards that are done"
        ) from error


@contextmanager
def one_line_for_reads(url: Url) -> Iterator[None]:
    """Turn what keeps a file from being looked at into a `StoreUnreadableError`."""
    try:
        yield
    except (OSError, MemoryError) as error:
        raise unreadable(url, error) from error


def unreadable(url: Url, error: OSError | MemoryError) -> StoreUnreadableError:
    """Return the error of a file that could not be looked at."""
    cure = "correct the path or its permissions, or run the command again once it can be read"
    if isinstance(error, OSError) and error.errno == errno.EINVAL:  # a folder, a pipe, a device
        cure = "remove it and run `ssr embed`"
    return StoreUnreadableError(f"cannot read {_file_of(url, error)} ({reason_of(error)}): {cure}")


def _file_of(url: Url, error: OSError | MemoryError) -> str:
    """Return the file that an error is about, where it names one below the url."""
    file = str(getattr(error, "filename", None))
    return file if file.startswith(f"{url}/") else str(url)


def reason_of(error: OSError | MemoryError) -> str:
    """Return why a file could not be looked at."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    return error.strerror or str(error)


def exists(files: Files, name: str) -> bool:
    """Tell whether there is such a file."""
    try:
        files.size(name)
    except FileNotFoundError:
        return False
    return True
