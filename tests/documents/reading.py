"""What the documents tell people to type."""

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.pipeline.workplace import REPOSITORY

DOCUMENTS = (
    "README.md",
    "docs/using.md",
    "docs/scaling.md",
    "docs/results.md",
    "docs/contributing.md",
    "benchmarks/README.md",
    "store/README.md",
)
PROGRAMS = ("ssr", "dvc", "git", "make", "pip", "python", "torchrun")

_BLOCK = re.compile(r"(?:^    .*\n|^    *\n)+", re.MULTILINE)
_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_SAY = "; ".join(f'{program}() {{ printf "%s\\n" "{program} ${{*@Q}}"; }}' for program in PROGRAMS)


@dataclass(frozen=True)
class Command:
    """One command as a shell hands it to its program.

    Attributes:
        words: Program and arguments.
        document: Where it is written.
    """

    words: tuple[str, ...]
    document: str


def text_of(document: str) -> str:
    return (REPOSITORY / document).read_text()


def shell_blocks(document: str) -> list[str]:
    """Indented blocks that begin with a program, a loop or an activation."""
    blocks = (
        re.sub("^    ", "", block, flags=re.MULTILINE) for block in _BLOCK.findall(_plain(document))
    )
    begins = (*(f"{program} " for program in PROGRAMS), "for ")
    return [block.strip() for block in blocks if block.startswith(begins)]


def fenced(document: str, language: str) -> list[str]:
    return [code for name, code in _FENCED.findall(text_of(document)) if name == language]


def commands_in(block: str, document: str) -> list[Command]:
    """Let a shell say what a block runs: loops, variables and quotes as it reads them."""
    said = subprocess.run(
        ["bash", "-euc", f"{_SAY}\n{block}"], capture_output=True, text=True, check=True
    )
    assert said.stderr == ""
    return [Command(tuple(shlex.split(line)), document) for line in said.stdout.splitlines()]


def spans(document: str) -> list[Command]:
    """Commands in the middle of sentences and tables; some have placeholders in capitals."""
    found = (
        span
        for span in _SPAN.findall(_plain(document))
        if span.startswith(tuple(f"{program} " for program in PROGRAMS))
    )
    return [Command(tuple(shlex.split(span)), document) for span in found]


def _plain(document: str) -> str:
    """The document without its fenced blocks."""
    return _FENCED.sub("", text_of(document))


def path_of(name: str) -> Path:
    return REPOSITORY / name
