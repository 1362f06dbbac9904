"""The checked-in reference is what the code says now, and the schema knows what params may be."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from pipeline.arms import ARMS
from pipeline.presets import PRESETS, render
from pipeline.reference import COMMAND, params_schema, references
from pipeline.reference.commands import commands_page
from pipeline.reference.keys import keys_page
from stages.prepare.config import FileSource
from tests.pipeline.workplace import REPOSITORY

REFERENCES = references()
OF_THE_USER = ("datasets", "subsets")
"""Sections whose keys are names that the user chose."""
SCHEMA = Draft202012Validator(params_schema())


def tree_of(preset: str, arm: str = "ssr") -> dict[str, Any]:
    tree = YAML(typ="safe").load(render(preset, arm=arm, roots={}))
    assert isinstance(tree, dict)
    return tree


def keys_of(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping) and key not in OF_THE_USER:
            yield from keys_of(value, f"{prefix}{key}.")


def faults_of(tree: object) -> list[str]:
    return [fault.json_path for fault in SCHEMA.iter_errors(tree)]


def row_of(key: str) -> str:
    (row,) = [
        line
        for line in REFERENCES["docs/params.md"].splitlines()
        if line.startswith(f"| `{key}` |")
    ]
    return row


@pytest.mark.parametrize("path", REFERENCES)
def test_the_reference_is_what_the_code_says(path: str) -> None:
    place = REPOSITORY / path
    checked_in = place.read_text() if place.exists() else ""
    assert checked_in == REFERENCES[path], f"{path} is out of date: run `{COMMAND}`"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_page_has_every_key_of_a_preset(preset: str) -> None:
    tree = tree_of(preset)
    sources = {domain: tree["prepare"].pop(domain) for domain in ("source", "target")}
    for key in keys_of(tree):
        if "." in key:
            assert row_of(key)
    page = REFERENCES["docs/params.md"]
    for source in filter(None, sources.values()):
        section = page.partition(f"### Kind `{source['kind']}`")[2].partition("### Kind")[0]
        for key in keys_of(source):
            assert f"| `{key}` |" in section


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("prepare.target", "section, see [its kinds](#kinds-of-preparesource), or null"),
        ("embed.overlap", "number, 0 to 0.5"),
        ("embed.architecture", "`tiny`, `vit_b`, `vit_l` or `vit_h`"),
        ("embed.levels", "list of at least 1 (`stride8`, `stride16` or `stride32`)"),
        ("train.crop_px", "whole number, 32 to 32768, a multiple of 32"),
        ("train.crop_align_px", "`8`, `16` or `32`"),
        ("train.crop_max_class_share", "number, above 0, at most 1"),
        ("train.compile", "`true` or `false`"),
        ("train.masking", "section, or null"),
        ("train.init", "text, not empty, or null"),
        ("train.optimizer.betas", "list of 2 (number, at least 0, below 1)"),
        (
            "train.regularizer.levels",
            "list of 4 (`stride8`, `stride16` or `stride32`, or null)",
        ),
        (
            "evaluate.datasets",
            "section, see [its kinds](#kinds-of-preparesource), each by a name of your choice",
        ),
        ("classes[].color", "list of 3 (whole number, 0 to 255)"),
        ("splits.val", "text, not empty, or null"),
    ],
)
def test_a_value_is_told_in_words(key: str, says: str) -> None:
    assert row_of(key).split(" | ")[1] == says


def test_a_default_is_told() -> None:
    rows = [r for r in REFERENCES["docs/params.md"].splitlines() if r.startswith("| `exclude`")]
    assert len(rows) == len(FileSource.__subclasses__())
    assert all("| Default `[]`. Images to leave out" in row for row in rows)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_schema_accepts_every_preset(preset: str, arm: str) -> None:
    assert faults_of(tree_of(preset, arm)) == []


@pytest.mark.parametrize(
    ("section", "key", "value", "where"),
    [
        ("train", "iteratons", 3, "$.train"),
        ("train", "crop_px", 100, "$.train.crop_px"),
        ("train", "iterations", "many", "$.train.iterations"),
        ("embed", "architecture", "vit_x", "$.embed.architecture"),
        ("evaluate", "datasets", {"a/b": {}}, "$.evaluate.datasets"),
        ("prepare", "source", {"kind": "camvdi"}, "$.prepare.source"),
        ("evaluate", "scales", [], "$.evaluate.scales"),
    ],
)
def test_the_schema_refuses_what_is_wrong(
    section: str, key: str, value: object, where: str
) -> None:
    tree = tree_of("drawn")
    tree[section][key] = value
    assert where in faults_of(tree)


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(params_schema())


@pytest.mark.parametrize(
    "row",
    [
        "| `--set KEY=VALUE`, `-S KEY=VALUE` | Change a value, e.g. train.seed=1. "
        "May be given several times. |",
        "| `--out PATH` | Folder of this run's results. Default `runs`. |",
        "| `--init` | Only fix metadata and scales, before parts write. |",
        "| `--device auto/cpu/cuda` | auto takes the GPU if there is one. Default `auto`. |",
        "| `MODEL` | A student or run folder: of train, import or export. Required. |",
    ],
)
def test_an_option_has_its_row(row: str) -> None:
    assert row in REFERENCES["docs/cli.md"].splitlines()


def test_a_key_without_description_is_refused() -> None:
    model = {"description": "A section.", "properties": {"key": {"type": "string"}}}
    section = {"$ref": "#/$defs/Section", "description": "One."}
    schema = {"$defs": {"Section": model}, "properties": {"section": section}}
    with pytest.raises(ValueError, match=r"section\.key has no description"):
        keys_page(schema, COMMAND)


def test_a_command_or_an_option_without_description_is_refused() -> None:
    def work(out: Annotated[Path, typer.Option("--out")]) -> None:
        """Work.

        Example: ssr work
        """

    for callback, says in ((work, "out has no help"), (lambda: None, "no description")):
        app = typer.Typer()
        app.command("work")(callback)
        with pytest.raises(ValueError, match=f"ssr work.*{says}"):
            commands_page(app, COMMAND)
