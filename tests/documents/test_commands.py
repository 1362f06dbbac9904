"""Every command in the documents exists, with every option that it is given."""

import re
import shlex
from importlib.util import find_spec

import pytest

from tests.documents.reading import DOCUMENTS, commands_in, shell_blocks, spans
from tests.pipeline.test_help import COMMANDS, GROUP
from tests.pipeline.workplace import REPOSITORY

OPTIONS = {
    name: {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for name, command in {"": GROUP, **COMMANDS}.items()
}
"""Of each subcommand of `ssr`, and of the program itself under the empty name."""

WRITTEN = {
    shlex.join(command)
    for document in DOCUMENTS
    for commands in (spans(document), *map(commands_in, shell_blocks(document)))
    for command in commands
}


@pytest.mark.parametrize("command", sorted(WRITTEN))
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
