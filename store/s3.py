"""Files in a bucket of S3, or of whatever speaks its language.

Credentials, region and endpoint come from where AWS' own tools look for them (`AWS_ACCESS_KEY_ID`,
`AWS_PROFILE`, `AWS_ENDPOINT_URL`, instance roles ...) and go nowhere else. A put is atomic, and
what was put is seen by every later read and listing.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from store.errors import StoreError
from store.url import checked_name, is_name

SCHEME: Final = "s3://"


class S3Files:
    """The files below a prefix of a bucket; see `store.url.Files`.

    Conditional writes (`create`, `replace`) are what leases are made of.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._root = self.url.removeprefix(SCHEME)

    def read(self, name: str) -> bytes:
        """Read a whole object."""
        with _os_errors():
            # One request: more at once would look for the size first, and could mix two versions.
            return bytes(self._fs.cat_file(self._key(name), max_concurrency=1))

    @contextmanager
    def open(self, name: str) -> Iterator["_S3File"]:
        """Open an object to read parts of it."""
        with _os_errors():
            yield _S3File(f"{self.url}/{name}", self._key(name), self._fs)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a whole object."""
        with _os_errors():
            self._fs.pipe_file(self._key(name), bytes(data))

    def size(self, name: str) -> int:
        """Return the size of an object in bytes."""
        with _os_errors():
            return int(self._fs.info(self._key(name), refresh=True)["size"])

    def names(self, folder: str) -> list[str]:
        """List the objects directly below a prefix, sorted."""
        with _os_errors():
            try:
                found = self._fs.ls(self._key(folder), detail=True, refresh=True)
            except FileNotFoundError:
                return []
        names = (e["name"].rsplit("/", 1)[1] for e in found if e["type"] == "file")
        return sorted(filter(is_name, names))

    def delete(self, name: str) -> None:
        """Delete an object unless there is none."""
        with _os_errors():
            self._fs.rm_file(self._key(name))

    def sweep(self) -> None:
        """Do nothing: an object is there as a whole or not at all."""

    def create(self, name: str, data: bytes) -> str:
        """Write an object that is not there, and return its tag.

        Raises:
            FileExistsError: It is there.
        """
        return self._put(name, data, IfNoneMatch="*")

    def replace(self, name: str, data: bytes, tag: str) -> str:
        """Write an object that nobody wrote since it got this tag, and return its new tag.

        Raises:
            FileExistsError: Somebody did.
        """
        return self._put(name, data, IfMatch=tag)

    def state(self, name: str) -> tuple[str, datetime]:
        """Return tag and time of an object, by the server's clock."""
        with _os_errors():
            info = self._fs.info(self._key(name), refresh=True)
        return info["ETag"], info["LastModified"]

    def _put(self, name: str, data: bytes, **condition: str) -> str:
        bucket, key = self._key(name).split("/", 1)
        with _os_errors():
            done = self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
        return str(done["ETag"])

    def _key(self, name: str) -> str:
        return f"{self._root}/{checked_name(name)}" if name else self._root

    @cached_property
    def _fs(self) -> Any:  # noqa: ANN401 - s3fs has no types
        try:
            from s3fs import S3FileSystem
        except ImportError as error:
            raise StoreError(
                f"{self.url} needs the package s3fs: pip install -e '.[s3]'"
            ) from error
        return S3FileSystem(use_listings_cache=False)  # others write, too


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
        for data in self._fs.cat_ranges([self._key] * len(ranges), starts, ends):
            yield np.frombuffer(data, np.uint8)


@contextmanager
def _os_errors() -> Iterator[None]:
    """Turn errors of the AWS packages that are plain exceptions into `OSError`s."""
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except BotoCoreError as error:  # no credentials, no connection
        raise OSError(errno.EIO, str(error)) from error
    except OSError as error:
        response = getattr(error.__cause__, "response", {})
        code = response.get("Error", {}).get("Code")
        if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
            raise FileExistsError(errno.EEXIST, "somebody else wrote it", None) from error
        raise
