"""What the documents tell people to type."""

import re
import shlex
import subprocess

from tests.pipeline.workplace import REPOSITORY

DOCUMENTS = (
    "README.md",
    *sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")),
    "benchmarks/README.md",
    "store/README.md",
)
PROGRAMS = ("ssr", "dvc", "git", "make", "pip", "python", "torchrun")

_BLOCK = re.compile(r"(?:^    .*\n|^    *\n)+", re.MULTILINE)
_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_SAY = "; ".join(f'{program}() {{ printf "%s\\n" "{program} ${{*@Q}}"; }}' for program in PROGRAMS)
_BEGINS = tuple(f"{program} " for program in PROGRAMS)


def shell_blocks(document: str) -> list[str]:
    """Indented blocks that begin with a program or a loop."""
    blocks = (re.sub("^    ", "", block, flags=re.M) for block in _BLOCK.findall(_plain(document)))
    return [block.strip() for block in blocks if block.strip().startswith((*_BEGINS, "for "))]


def commands_in(block: str) -> list[list[str]]:
    """Let a shell say what a block runs: loops, variables and quotes as it reads them."""
    said = subprocess.run(
        ["bash", "-euc", f"{_SAY}\n{block}"], capture_output=True, text=True, check=True
    )
    assert said.stderr == ""
    return [shlex.split(line) for line in said.stdout.splitlines()]


def spans(document: str) -> list[list[str]]:
    """Commands in the middle of sentences and tables; some have placeholders in capitals."""
    found = _SPAN.findall(_plain(document))
    return [shlex.split(span) for span in found if span.startswith(_BEGINS)]


def _plain(document: str) -> str:
    """The document without its fenced blocks."""
    return _FENCED.sub("", (REPOSITORY / document).read_text())
