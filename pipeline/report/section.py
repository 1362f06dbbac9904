"""A part of the report, or the line that says why it is not there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from store.errors import SSRError

Content = TypeVar("Content")
Further = TypeVar("Further")


@dataclass(frozen=True)
class Section(Generic[Content]):
    """One part.

    Attributes:
        content: What it shows; None where it cannot.
        missing: Why not, and what to do; empty where it can.
    """

    content: Content | None
    missing: str = ""

    def then(self, collect: Callable[[Content], Further]) -> "Section[Further]":
        """Make a part from this one; where this is missing, so is that, for the same reason."""
        content = self.content
        if content is None:
            return Section(None, self.missing)
        return section(lambda: collect(content))


def section(collect: Callable[[], Content]) -> Section[Content]:
    """Collect a part; what is not made yet, or damaged, leaves the others alone."""
    try:
        return Section(collect())
    except (SSRError, OSError) as error:
        return Section(None, str(error))
