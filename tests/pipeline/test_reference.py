"""The checked-in reference is what the code says now, and the schema knows what params may be."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from pipeline.presets import ARMS, PRESETS, render
from pipeline.reference import COMMAND, references
from tests.pipeline.workplace import REPOSITORY

REFERENCES = references()
OF_THE_USER = ("datasets", "subsets")
"""Sections whose keys are names that the user chose."""
SCHEMA = Draft202012Validator(json.loads(REFERENCES["pipeline/params.schema.json"]))


def tree_of(preset: str, arm: str = "ssr") -> dict[str, Any]:
    tree = YAML(typ="safe").load(render(preset, arm=arm, roots={}))
    assert isinstance(tree, dict)
    return tree


def keys_of(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the heading of the table that a key is in, empty for those of sections, and the key."""
    for key, value in tree.items():
        yield "", f"{prefix}{key}"
        if isinstance(value, Mapping) and "kind" in value:
            yield from ((f"## `kind: {value['kind']}`\n", below) for _, below in keys_of(value))
        elif isinstance(value, Mapping) and key not in OF_THE_USER:
            yield from keys_of(value, f"{prefix}{key}.")


def faults_of(tree: object) -> list[str]:
    return [fault.json_path for fault in SCHEMA.iter_errors(tree)]


@pytest.mark.parametrize("path", REFERENCES)
def test_the_reference_is_what_the_code_says(path: str) -> None:
    place = REPOSITORY / path
    checked_in = place.read_text() if place.exists() else ""
    assert checked_in == REFERENCES[path], f"{path} is out of date: run `{COMMAND}`"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_page_has_every_key_of_a_preset(preset: str) -> None:
    for section, tree in tree_of(preset).items():
        for heading, key in keys_of(tree or {}, f"{section}."):
            page = REFERENCES["docs/params.md"]
            if heading:
                page = page.partition(heading)[2].partition("\n## ")[0]
            assert f"| `{key}` |" in page, key


def test_the_schema_accepts_every_preset() -> None:
    for preset in PRESETS:
        for arm in ARMS:
            if preset.startswith("gta5-generalization") and arm in ("store-labels", "agree"):
                continue  # there is no target to label
            assert faults_of(tree_of(preset, arm)) == [], (preset, arm)


@pytest.mark.parametrize(
    ("section", "key", "value", "where"),
    [
        ("train", "iteratons", 3, "$.train"),
        ("train", "crop_px", 100, "$.train.crop_px"),
        ("embed", "precision", "float8", "$.embed.precision"),
        ("prepare", "source", {"kind": "camvdi"}, "$.prepare.source"),
    ],
)
def test_the_schema_refuses_what_is_wrong(
    section: str, key: str, value: object, where: str
) -> None:
    tree = tree_of("drawn")
    tree[section][key] = value
    assert where in faults_of(tree)
