"""The checked-in reference is what the code says now, and the schema knows what params may be."""

import json

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from pipeline.presets import PRESETS, render
from pipeline.reference import COMMAND, references
from tests.pipeline.workplace import REPOSITORY

REFERENCES = references()
SCHEMA = Draft202012Validator(json.loads(REFERENCES["pipeline/params.schema.json"]))


@pytest.mark.parametrize("path", REFERENCES)
def test_the_reference_is_what_the_code_says(path: str) -> None:
    place = REPOSITORY / path
    checked_in = place.read_text() if place.exists() else ""
    assert checked_in == REFERENCES[path], f"{path} is out of date: run `{COMMAND}`"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_schema_accepts_every_preset(preset: str) -> None:
    assert [*SCHEMA.iter_errors(YAML(typ="safe").load(render(preset, roots={})))] == []
