"""Every command in the documents exists, with every option that it is given."""

import re
import shlex
import subprocess
from importlib.util import find_spec

import pytest
import typer.main
from typer.core import TyperGroup

from pipeline.cli import app
from tests.pipeline.workplace import REPOSITORY

DOCUMENTS = [
    REPOSITORY / name for name in ("README.md", "benchmarks/README.md", "store/README.md")
] + sorted((REPOSITORY / "docs").glob("*.md"))
PROGRAMS = ("ssr", "dvc", "git", "make", "pip", "python", "torchrun")

GROUP = typer.main.get_command(app)
assert isinstance(GROUP, TyperGroup)
OPTIONS = {
    name: {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for name, command in {"": GROUP, **GROUP.commands}.items()
}
"""Of each subcommand of `ssr`, and of the program itself under the empty name."""

_BLOCK = re.compile(r"(?:^    .*\n|^    *\n)+", re.MULTILINE)
_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_SAY = "; ".join(f'{program}() {{ printf "%s\\n" "{program} ${{*@Q}}"; }}' for program in PROGRAMS)


def commands_of(text: str) -> list[str]:
    """Commands in spans, and in indented blocks as a shell reads their loops and quotes."""
    plain = _FENCED.sub("", text)
    begins = tuple(f"{program} " for program in PROGRAMS)
    found = [span for span in _SPAN.findall(plain) if span.startswith(begins)]
    for indented in _BLOCK.findall(plain):
        block = re.sub("^    ", "", indented, flags=re.MULTILINE).strip()
        if block.startswith((*begins, "for ")):
            shell = ["bash", "-euc", f"{_SAY}\n{block}"]
            said = subprocess.run(shell, capture_output=True, text=True, check=True)
            found += said.stdout.splitlines()
    return found


WRITTEN = sorted({command for path in DOCUMENTS for command in commands_of(path.read_text())})


@pytest.mark.parametrize("command", WRITTEN)
def test_a_command_in_a_document_exists_with_its_options(command: str) -> None:
    program, *rest = shlex.split(command)
    match program:
        case "ssr":
            name = "" if rest[0].startswith("-") else rest[0]
            assert name in OPTIONS
            assert {word for word in rest if re.match(r"--?[A-Za-z]", word)} <= OPTIONS[name]
        case "python" | "torchrun" if "-m" in rest:
            assert find_spec(rest[rest.index("-m") + 1]) is not None
        case "python":
            assert (REPOSITORY / rest[0]).is_file()
