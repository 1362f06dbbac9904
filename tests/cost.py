"""What `make test-fast` leaves out, the marker `costly`.

These are tests that embed, train, export, need a bucket, build networks of real size or start
Python. Some are known by their fixtures, the others say so. One that starts Python and does not
say so fails.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

COSTLY: Final = {"costly", "slow", "gpu"}
"""Markers of tests that `make test-fast` does not run."""

FIXTURES: Final = {
    "bucket",  # a server that speaks S3
    "photos",  # a folder after the walk through all stages
    "trained_on_photos",
    "world",  # images to embed, or to train on
    "embedded",
    "walk",
    "first",  # a repository after `dvc repro`
    "done",  # what ranks have trained
    "killed",  # runs of training
}
"""What takes seconds to set up, or is there to be embedded or trained on."""

_watched: list[str] | None = None


def needs_costly(item: pytest.Item) -> bool:
    """Tell whether a test uses one of the fixtures; it may take `bucket` by way of `place`."""
    if not isinstance(item, pytest.Function):
        return False
    callspec = getattr(item, "callspec", None)
    in_bucket = callspec is not None and callspec.params.get("place") == "s3"
    return in_bucket or not FIXTURES.isdisjoint(item.fixturenames)


def is_costly_as_a_whole(path: Path) -> bool:
    """Tell whether a file says so of all its tests."""
    return path.suffix == ".py" and "\npytestmark = pytest.mark.costly\n" in path.read_text()


@contextmanager
def watching_starts() -> Iterator[list[str]]:
    """Note programs of this environment that are started while the block runs."""
    global _watched
    _watched = []
    yield _watched
    _watched = None


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _watched is None or event not in ("subprocess.Popen", "os.posix_spawn", "os.fork"):
        return
    program = str(arguments[0]) if arguments else "a fork"
    ours = Path(sys.executable).parent
    if not arguments or program in ("dvc", "git") or Path(program).parent == ours:
        _watched.append(program)


sys.addaudithook(_audit)
