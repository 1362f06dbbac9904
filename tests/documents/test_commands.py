"""Every command in the documents exists, with every option that it is given."""

import re
from importlib.util import find_spec

import pytest
import typer.main
from typer.core import TyperGroup

from pipeline.cli import app
from tests.documents.reading import (
    DOCUMENTS,
    Command,
    commands_in,
    path_of,
    shell_blocks,
    spans,
)

GROUP = typer.main.get_command(app)
assert isinstance(GROUP, TyperGroup)
COMMANDS = GROUP.commands
OPTIONS = {
    name: {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for name, command in {"": GROUP, **COMMANDS}.items()
}
"""Of each subcommand of `ssr`, and of the program itself under the empty name."""
WRITTEN = [
    command
    for document in DOCUMENTS
    for command in (
        *spans(document),
        *(c for block in shell_blocks(document) for c in commands_in(block, document)),
    )
]


@pytest.mark.parametrize(
    "command", WRITTEN, ids=[f"{c.document}: {' '.join(c.words)}" for c in WRITTEN]
)
def test_a_command_in_a_document_exists_with_its_options(command: Command) -> None:
    program, *rest = command.words
    match program:
        case "ssr":
            name = "" if rest[0].startswith("-") else rest[0]
            assert name in OPTIONS
            assert {word for word in rest if re.match(r"--?[A-Za-z]", word)} <= OPTIONS[name]
        case "python" | "torchrun" if "-m" in rest:
            assert find_spec(rest[rest.index("-m") + 1]) is not None
        case "python":
            assert path_of(rest[0]).is_file()
