"""Every command in the documents exists, with every option that it is given."""

import re
import tomllib
from importlib.util import find_spec

import pytest
import typer.main
from typer.core import TyperGroup

from pipeline.cli import app
from pipeline.presets import PRESETS
from tests.documents.reading import (
    DOCUMENTS,
    Command,
    commands_in,
    path_of,
    shell_blocks,
    spans,
    text_of,
)

GROUP = typer.main.get_command(app)
assert isinstance(GROUP, TyperGroup)
COMMANDS = GROUP.commands
OPTIONS = {
    name: {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for name, command in {"": GROUP, **COMMANDS}.items()
}
"""Of each subcommand of `ssr`, and of the program itself under the empty name."""
TARGETS = set(re.findall(r"^([\w-]+):", path_of("Makefile").read_text(), re.MULTILINE))
PROJECT = tomllib.loads(path_of("pyproject.toml").read_text())["project"]
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
        case "make":
            assert set(rest) <= TARGETS
        case "pip":
            (extras,) = re.findall(r"\.\[(.+)\]", " ".join(rest))
            assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
        case "python" | "torchrun" if "-m" in rest:
            assert find_spec(rest[rest.index("-m") + 1]) is not None
        case "python":
            assert path_of(rest[0]).is_file()


def test_every_preset_is_in_the_readme() -> None:
    named = set(re.findall(r"^\| `([\w-]+)` \|", text_of("README.md"), re.MULTILINE))
    assert set(PRESETS) <= named


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", text_of(document)):
            assert (path_of(document).parent / target).exists(), f"{document}: {target}"


def test_a_section_that_is_referred_to_exists() -> None:
    text = text_of("README.md")
    headings = set(re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    named = re.findall(
        r"(?:see|as in|task of) \*([A-Z][^*]+)\*|^\*([A-Z][^*]+)\*", text, re.MULTILINE
    )
    assert named
    assert {next(filter(None, name)) for name in named} <= headings


def test_no_place_was_left_to_be_filled_in() -> None:
    for document in DOCUMENTS:
        found = re.findall(r"^[A-Z]{4,}$|TODO|FIXME|XXX", text_of(document), re.MULTILINE)
        assert found == [], document
