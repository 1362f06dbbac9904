"""What a check finds, and how a check that fails itself becomes a finding."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from store.errors import SSRError

Mark = Literal["ok", "warning", "problem"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        mark: A warning is something to know or to do next; with a problem some command ends.
        text: One line; what is not ok, with its cure.
    """

    mark: Mark
    text: str


def ok(text: str) -> Finding:
    """Say that something is as it should be."""
    return _finding("ok", text)


def warning(text: str) -> Finding:
    """Say what is missing but stops nothing that was begun."""
    return _finding("warning", text)


def problem(text: str) -> Finding:
    """Say what a command will refuse."""
    return _finding("problem", text)


def attempt(call: Callable[[], T]) -> T | Finding:
    """Return what a call returns, or the problem that it raises."""
    try:
        return call()
    except SSRError as error:
        return problem(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return problem(f"{where}{error.strerror or error}; check the path and its permissions")
    except Exception as error:  # what is broken in a way of its own must not hide the other checks
        return problem(f"a check failed, please report it ({type(error).__name__}: {error})")


def findings_of(check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Run a check; whatever it raises is a finding too."""
    found = attempt(lambda: list(check()))
    yield from [found] if isinstance(found, Finding) else found


def _finding(mark: Mark, text: str) -> Finding:
    return Finding(mark, " ".join(text.split()))
