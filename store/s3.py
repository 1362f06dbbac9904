"""Files in a bucket of S3, or of whatever speaks its language.

Credentials, region and endpoint come from where AWS' own tools look for them (`AWS_ACCESS_KEY_ID`,
`AWS_PROFILE`, `AWS_ENDPOINT_URL`, instance roles ...) and go nowhere else. A put is atomic, and
what was put is seen by every later read and listing.

Requests that a server is too busy for, answers that are cut and connections that break are tried
again with growing pauses, by botocore (3 times; `AWS_MAX_ATTEMPTS`) and s3fs (twice that):
a server that never answers is given up within a minute.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from store.errors import StoreError
from store.url import checked_name, is_name

SCHEME: Final = "s3://"


class State(NamedTuple):
    """One version of an object: its content, its tag, and how long ago it was written."""

    data: bytes
    tag: str
    age: timedelta


class S3Files:
    """The files below a prefix of a bucket; see `store.url.Files`.

    Conditional writes (`create`, `replace`) are what leases are made of, copies what ends a write.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._root = self.url.removeprefix(SCHEME)

    def read(self, name: str) -> bytes:
        """Read a whole object."""
        with self._os_errors(name):
            # One request: more at once would look for the size first, and could mix two versions.
            return bytes(self._fs.cat_file(self._key(name), max_concurrency=1))

    @contextmanager
    def open(self, name: str) -> Iterator["_S3File"]:
        """Open an object to read parts of it."""
        with self._os_errors(name):
            yield _S3File(f"{self.url}/{name}", self._key(name), self._fs)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a whole object."""
        with self._os_errors(name):
            self._fs.pipe_file(self._key(name), bytes(data))

    def size(self, name: str) -> int:
        """Return the size of an object in bytes."""
        return int(self._told(self._call("head_object", name), name, "ContentLength"))

    def names(self, folder: str) -> list[str]:
        """List the objects directly below a prefix, sorted."""
        with self._os_errors(folder):
            try:
                found = self._fs.ls(self._key(folder), detail=True, refresh=True)
            except FileNotFoundError:
                return []
        names = (e["name"].rsplit("/", 1)[1] for e in found if e["type"] == "file")
        return sorted(filter(is_name, names))

    def delete(self, name: str) -> None:
        """Delete an object unless there is none."""
        self._call("delete_object", name)

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

    def state(self, name: str) -> State:
        """Read a whole object with its tag and its age by the server's clock.

        Where others write meanwhile the tag is of this content, or of an earlier one.
        """
        head = self._call("head_object", name)
        date = self._told(head, name, "ResponseMetadata", "HTTPHeaders", "date")
        tag, written = self._told(head, name, "ETag"), self._told(head, name, "LastModified")
        try:
            age = parsedate_to_datetime(date) - written
        except (ValueError, TypeError) as error:
            raise OSError(
                errno.EIO, "the server's answer holds no date", f"{self.url}/{name}"
            ) from error
        return State(self.read(name), str(tag), age)

    def copy(self, name: str, new_name: str) -> None:
        """Write an object with the content of another, on the server, in one step.

        Raises:
            FileNotFoundError: There is no such object.
        """
        bucket, key = self._place(name)
        self._call("copy_object", new_name, CopySource={"Bucket": bucket, "Key": key})

    def delete_all(self, names: Sequence[str]) -> None:
        """Delete objects in one request."""
        keys = [{"Key": self._place(name)[1]} for name in names]
        with self._os_errors(""):
            bucket = self._place("")[0]
            self._fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys})

    def _put(self, name: str, data: bytes, **condition: str) -> str:
        return str(self._told(self._call("put_object", name, Body=data, **condition), name, "ETag"))

    def _told(self, answer: Any, name: str, *keys: str) -> Any:  # noqa: ANN401
        """Return a part of an answer; OSError where the server left it out."""
        for key in keys:
            if key not in answer:
                raise OSError(errno.EIO, f"the server's answer lacks {key}", f"{self.url}/{name}")
            answer = answer[key]
        return answer

    def _call(self, method: str, name: str, **arguments: object) -> Any:  # noqa: ANN401
        bucket, key = self._place(name)
        with self._os_errors(name):
            return self._fs.call_s3(method, Bucket=bucket, Key=key, **arguments)

    def _place(self, name: str) -> tuple[str, str]:
        bucket, _, key = self._key(name).partition("/")
        return bucket, key

    def _key(self, name: str) -> str:
        return f"{self._root}/{checked_name(name)}" if name else self._root

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
            number = errno.EACCES if isinstance(error, PermissionError) else errno.EIO
            url = f"{self.url}/{name}".rstrip("/")
            raise OSError(number, " ".join(reason.split()), url) from error


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
