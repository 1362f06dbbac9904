"""Findings of checks; a check that fails itself becomes one."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal, NamedTuple, TypeVar, get_args

from store.errors import SSRError

Mark = Literal["ok", "warning", "problem"]
T = TypeVar("T")


class Finding(NamedTuple):
    """What a check found.

    Attributes:
        mark: A warning is something to know or to do next; with a problem some command ends.
        text: What is not ok, with its cure.
    """

    mark: Mark
    text: str


ok, warning, problem = (partial(Finding, mark) for mark in get_args(Mark))


def attempt(call: Callable[[], T]) -> T | Finding:
    """Return what a call returns, or the problem that it raises."""
    try:
        return call()
    except SSRError as error:
        return problem(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        why = f"{where}{error.strerror or error}"
        return problem(f"{why}; check the path and its permissions")
    except Exception as error:  # what is broken in a way of its own must not hide the other checks
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, ImportError):
            why = f"a package cannot be imported ({why}): run `pip install -e .` again"
        else:
            why = f"a check failed, please report it ({why})"
        return problem(why)


def findings_of(check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Run a check; whatever it raises is a finding too."""
    found = attempt(lambda: list(check()))
    yield from [found] if isinstance(found, Finding) else found
