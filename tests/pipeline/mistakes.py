"""What a person can get wrong, and what must come of it."""

import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.pipeline.workplace import change_params, shard, ssr, stored, the_store

LONGEST = 280
"""Characters in a line; one that names two paths, or keys to choose from, needs some."""


def leave_it() -> None:
    """The command line alone is wrong."""


@dataclass(frozen=True)
class Case:
    """A mistake.

    Attributes:
        name: What the person did.
        command: What they typed after `ssr`.
        says: Parts of the line that it gets: what is wrong, where, and how to correct it.
        spoil: Does it, in a folder where all stages have run.
    """

    name: str
    command: str
    says: tuple[str, ...]
    spoil: Callable[[], object] = leave_it


def params(**sections: dict[str, object]) -> Callable[[], None]:
    """Change keys of params.yaml: `params(train={"crop_px": 96})`."""
    return lambda: change_params(
        Path(),
        {f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items()},
    )


def write(text: str, name: str = "params.yaml") -> Callable[[], object]:
    """Replace a file by a text."""
    return lambda: Path(name).write_text(text)


def copy(name: str, to: str) -> Callable[[], object]:
    """Put another file, perhaps of another kind, into a place."""
    return lambda: shutil.copy(name, to)


def remove(*names: str) -> Callable[[], None]:
    """Delete files or folders."""

    def spoil() -> None:
        for path in map(Path, names):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def cut_in_half(name: str) -> Callable[[], object]:
    """Truncate a file, as an interrupted download does."""
    path = Path(name)
    return lambda: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bits(path: Path) -> None:
    """Change every byte of a file and not its size."""
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


def flip_bits_of_the_target() -> None:
    for number in (0, 1):
        flip_bits(shard("target", number))


def identifier(case: Case) -> str:
    return case.name.replace(" ", "-")


def assert_one_line_and_nothing_lost(case: Case, folder: Path) -> None:
    """Do what the case says in a folder where all stages have run."""
    case.spoil()
    before = stored(folder)
    assert_refused(case.command, *case.says)
    assert before.items() <= stored(folder).items()


def assert_refused(command: str, *says: str) -> None:
    """Run `ssr` and demand exit code 2 and a single line that says all this."""
    words = shlex.split(command)
    outcome = ssr(*(str(the_store("source")) if word == "STORE" else word for word in words))
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("ssr: ")
    assert outcome.err.count("\n") == 1, outcome.err
    assert len(outcome.err) <= LONGEST, outcome.err
    for part in says:
        assert part in outcome.err, outcome.err
