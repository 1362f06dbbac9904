"""Files of stores, in a local folder or below a prefix of an S3 bucket, and the urls of both.

Credentials, region and endpoint of S3 come from where AWS' own tools look for them, and go nowhere
else. A put is atomic, and what was put is seen by every later read and listing.
"""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from store import atomic
from store.errors import ConfigError, StoreError, StoreUnreadableError

Url: TypeAlias = Path | str
"""A local folder, as a `Path` or a string, or `s3://bucket/prefix`."""

S3 = "s3://"

MOST_METADATA_BYTES = 2**28
"""The list of more than a million images."""

_NAME: Final = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)*", re.ASCII)
_SHARD: Final = ".0.0.0"  # ending of its name


class LocalFiles:
    """The files below a local folder; see `Files`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)

    def read(self, name: str) -> bytes | None:
        """Read a whole file; None where there is none."""
        try:
            with os.fdopen(atomic.open_regular(self.path(name), os.O_RDONLY), "rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if size_bytes > MOST_METADATA_BYTES and not name.endswith(_SHARD):
                    raise OSError(errno.EFBIG, "larger than any metadata", f"{self.url}/{name}")
                return file.read()
        except FileNotFoundError:
            return None

    @contextmanager
    def open(self, name: str) -> Iterator["_LocalFile"]:
        """Open a file to read parts of it."""
        descriptor = atomic.open_regular(self.path(name), os.O_RDONLY)
        try:
            yield _LocalFile(f"{self.url}/{name}", descriptor)
        finally:
            os.close(descriptor)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a whole file by way of a temporary one beside it."""
        atomic.write_bytes(self.path(name), data)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None where there is none."""
        try:
            return self.path(name).stat().st_size
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """List the files directly in a folder, sorted; none where there is no folder."""
        try:
            with os.scandir(self.path(folder)) as entries:
                return sorted(e.name for e in entries if is_name(e.name) and e.is_file())
        except FileNotFoundError:
            return []

    def delete(self, name: str) -> None:
        """Delete a file unless there is none."""
        self.path(name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what writers that were killed left half-written; none may live."""
        for leftover in self.folder.rglob(f"*{atomic.TEMPORARY_SUFFIX}"):
            if leftover.is_file() and not leftover.is_symlink():
                leftover.unlink(missing_ok=True)  # its writer may live, and be done with it

    def path(self, name: str) -> Path:
        """Return where a file or folder is; the place may be a link, and links may lead inside."""
        path = self.folder
        for part in _checked(name).split("/"):
            path /= part
            if path.is_symlink():
                place = os.path.realpath(self.folder)
                if not Path(os.path.realpath(path)).is_relative_to(place):
                    raise OSError(errno.ELOOP, "a link leads out of the store", str(path))
        return path


class _LocalFile:
    def __init__(self, url: str, descriptor: int) -> None:
        self.url = url
        self._size_bytes = os.fstat(descriptor).st_size
        self._descriptor = descriptor

    def tail(self, length: int) -> NDArray[np.uint8]:
        """Read the last bytes; fewer where the file is shorter."""
        length = min(length, self._size_bytes)
        return next(self.ranges([(self._size_bytes - length, length)]))

    def ranges(self, ranges: Sequence[tuple[int, int]]) -> Iterator[NDArray[np.uint8]]:
        """Read (offset, length) each; fewer bytes where the file ends. Valid until the next."""
        # One buffer for all, so that it stays in the processor's cache from reading to copying.
        buffer = np.empty(max((length for _, length in ranges), default=0), np.uint8)
        for offset, length in ranges:
            part = buffer[: length if offset < self._size_bytes else 0]
            yield part[: os.preadv(self._descriptor, [part.data], offset)] if len(part) else part


class S3Files:
    """The files below a prefix of a bucket; see `Files`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._bucket, _, self._prefix = self.url.removeprefix(S3).partition("/")

    def read(self, name: str) -> bytes | None:
        """Read a whole object; None where there is none."""
        try:
            with self._os_errors(name):
                # One request: more would look for the size first, and could mix two versions.
                return bytes(self._fs.cat_file(self._place(name), max_concurrency=1))
        except FileNotFoundError:
            return None

    @contextmanager
    def open(self, name: str) -> Iterator["_S3File"]:
        """Open an object to read parts of it."""
        with self._os_errors(name):
            yield _S3File(f"{self.url}/{name}", self._place(name), self._fs)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a whole object."""
        with self._os_errors(name):
            self._fs.pipe_file(self._place(name), bytes(data))

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes; None where there is none."""
        try:
            return int(self._call("head_object", name)["ContentLength"])
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """List the objects directly below a prefix, sorted."""
        with self._os_errors(folder):
            try:
                found = self._fs.ls(self._place(folder), detail=True, refresh=True)
            except FileNotFoundError:
                return []
        names = (e["name"].rsplit("/", 1)[1] for e in found if e["type"] == "file")
        return sorted(filter(is_name, names))

    def delete(self, name: str) -> None:
        """Delete an object unless there is none."""
        self._call("delete_object", name)

    def sweep(self) -> None:
        """Do nothing: an object is there as a whole or not at all."""

    def put(self, name: str, data: bytes, tag: str | None) -> str:
        """Write an object if it has this tag still, or, without a tag, if it is not there.

        Returns its new tag; FileExistsError where somebody else wrote it.
        """
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        return str(self._call("put_object", name, Body=data, **condition)["ETag"])

    def state(self, name: str) -> tuple[bytes | None, str, timedelta]:
        """Read a whole object, its tag, and its age by the server's clock.

        Where others write meanwhile the tag is of this content, or of an earlier one.
        """
        head = self._call("head_object", name)
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        return self.read(name), str(head["ETag"]), now - head["LastModified"]

    def copy(self, name: str, new_name: str) -> None:
        """Write an object with the content of another, on the server, in one step."""
        source = {"Bucket": self._bucket, "Key": self._key(name)}
        self._call("copy_object", new_name, CopySource=source)

    def _call(self, method: str, name: str, **arguments: object) -> Any:  # noqa: ANN401
        with self._os_errors(name):
            return self._fs.call_s3(method, Bucket=self._bucket, Key=self._key(name), **arguments)

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self._prefix, _checked(name)) if part)

    def _place(self, name: str) -> str:
        return f"{self._bucket}/{self._key(name)}".rstrip("/")

    @cached_property
    def _fs(self) -> Any:  # noqa: ANN401 - s3fs has no types
        from s3fs import S3FileSystem

        limits: dict[str, Any] = {"connect_timeout": 5, "read_timeout": 8}
        if "AWS_MAX_ATTEMPTS" not in os.environ:
            limits["retries"] = {"total_max_attempts": 2}
        fs = S3FileSystem(use_listings_cache=False, config_kwargs=limits)  # others write, too
        fs.retries = 2
        try:
            fs.connect()  # asks no server yet
        except ValueError as error:
            raise StoreError(f"{self.url}: {error}: correct AWS_ENDPOINT_URL") from error
        return fs

    @contextmanager
    def _os_errors(self, name: str) -> Iterator[None]:
        """Turn whatever the AWS packages raise into an `OSError` with the server's code and url."""
        try:
            from botocore.exceptions import BotoCoreError
            from s3fs.core import S3_RETRYABLE_ERRORS
        except ImportError as error:
            raise StoreError(
                f"{self.url} needs the package s3fs: pip install -e '.[s3]'"
            ) from error
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, BotoCoreError, *S3_RETRYABLE_ERRORS) as error:
            answer = getattr(error.__cause__, "response", None) or {"Error": {}}
            code = answer["Error"].get("Code")
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                raise FileExistsError(errno.EEXIST, "somebody else wrote it", None) from error
            said = answer["Error"].get("Message") or str(error) or type(error).__name__
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
            what = " ".join(dict.fromkeys(str(part) for part in (status, code) if part))
            reason = f"the server answers {what}: {said}" if what else said
            url = f"{self.url}/{name}".rstrip("/")
            raise OSError(errno.EIO, " ".join(reason.split()), url) from error


class _S3File:
    def __init__(self, url: str, key: str, fs: Any) -> None:  # noqa: ANN401
        self.url = url
        self._key = key
        self._fs = fs

    def tail(self, length: int) -> NDArray[np.uint8]:
        return np.frombuffer(self._fs.cat_file(self._key, start=-length), np.uint8)

    def ranges(self, ranges: Sequence[tuple[int, int]]) -> Iterator[NDArray[np.uint8]]:
        starts = [offset for offset, _ in ranges]
        ends = [offset + length for offset, length in ranges]
        keys = [self._key] * len(ranges)
        for data in self._fs.cat_ranges(keys, starts, ends, on_error="raise"):
            yield np.frombuffer(data, np.uint8)


Files: TypeAlias = LocalFiles | S3Files
"""The files below one place; names are POSIX paths below it, as `is_name` knows them.

A write leaves a file as before or complete at any instant. Whatever goes wrong is an `OSError`,
also where a name or a link leads out of the place. Unless it is a `FileNotFoundError`, it says
nothing about the file.
"""

OpenFile: TypeAlias = _LocalFile | _S3File
"""One file that is being read; locally it stays the same while it is replaced."""


def files_at(url: Url) -> Files:
    """Return the files at a url, without a look; StoreError if it is neither local nor on S3."""
    if isinstance(url, Path) or "://" not in url:
        return LocalFiles(Path(url))
    prefix = url.removeprefix(S3).strip("/")
    if not url.startswith(S3) or not prefix or "?" in prefix:  # s3fs reads ?versionId=
        raise StoreError(f"{url} is neither a folder nor {S3}bucket/prefix: change the url")
    return S3Files(url)


def is_name(name: str) -> bool:
    """Tell whether a file of a store can have this name: `a/b.c`, no part begins with a dot."""
    return _NAME.fullmatch(name) is not None


def _checked(name: str) -> str:
    """Return the name of a file, or "" for the place itself, if it cannot lead elsewhere."""
    if name and not is_name(name):
        raise OSError(errno.EINVAL, "no file of a store has such a name", name)
    return name


def parse_url(text: str) -> Url:
    """Turn text into a `Path`, `~` expanded, or keep it where it is not a local folder."""
    return text if "://" in text else local_path(text)


def local_path(text: str) -> Path:
    """Turn text into a `Path`, `~` expanded; ConfigError where there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{text}: there is no such user; write the path out") from error


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


_IN_THE_WAY: Final = (errno.EINVAL, errno.ELOOP, errno.EISDIR)
"""A folder, a pipe, a device, or a link that leads nowhere or out, where a file belongs."""


@contextmanager
def one_line_for_os_errors(url: Url) -> Iterator[None]:
    """Turn an `OSError` of a write into a `StoreError`."""
    try:
        yield
    except OSError as error:
        cure = "make room or set permissions"
        if error.errno in _IN_THE_WAY:
            cure = "remove what is in the way"
        elif str(url).startswith(S3):
            cure = "wait, or check the bucket, your permissions and the network,"
        raise StoreError(
            f"cannot write {_file_of(url, error)}: {reason_of(error)}; {cure} and run the command "
            "again, it continues after the shards that are done"
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
    if isinstance(error, OSError) and error.errno in _IN_THE_WAY:
        cure = "remove what is in the way and run `ssr embed`"
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
