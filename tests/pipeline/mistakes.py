"""What a person gets wrong is one line, exit code 2, and costs nothing."""

import shlex
from collections.abc import Callable
from pathlib import Path

from tests.pipeline.workplace import ssr, stored

LONGEST = 280
"""Characters in a line; one that names two paths, or keys to choose from, needs some."""

Mistake = tuple[str, tuple[str, ...], Callable[[], object]]
"""What is typed after `ssr`; what the line says: what is wrong, where, the cure; what went wrong
before, in a folder where all stages have run."""


def leave_it() -> None:
    """The command line alone is wrong."""


def assert_refused(command: str, *says: str) -> None:
    """Run `ssr`; demand exit code 2, a single line that says all this, and no file changed."""
    before = stored(Path())
    outcome = ssr(*shlex.split(command))
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("ssr: ")
    assert outcome.err.count("\n") == 1, outcome.err
    assert len(outcome.err) <= LONGEST, outcome.err
    for part in says:
        assert part in outcome.err, outcome.err
    assert before.items() <= stored(Path()).items()
