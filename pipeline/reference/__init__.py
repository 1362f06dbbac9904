"""The reference of every key and command, written from the models and the commands themselves.

`python -m pipeline.reference` writes `docs/params.md`, `docs/cli.md` and the schema that editors
complete `params.yaml` with. A test demands that what is checked in is what this would write.
"""

import json
from typing import Final

from pipeline.params import Params
from pipeline.reference.commands import commands_page
from pipeline.reference.keys import keys_page

COMMAND: Final = f"python -m {__name__}"


def references() -> dict[str, str]:
    """Return path in the repository -> text of every generated file.

    Raises:
        ValueError: A key, an option or a command has no description.
    """
    from pipeline.cli import app

    schema = params_schema()
    return {
        "docs/params.md": keys_page(schema, COMMAND),
        "docs/cli.md": commands_page(app, COMMAND),
        "pipeline/params.schema.json": json.dumps(schema, indent=1, ensure_ascii=False) + "\n",
    }


def params_schema() -> dict[str, object]:
    """Return the JSON schema of `params.yaml`; checks between keys are not part of it."""
    schema = _tidy(Params.model_json_schema())
    assert isinstance(schema, dict)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "params.yaml of ssr-offline",
        **schema,
    }


def _tidy(node: object) -> object:
    """Leave out titles, which are the keys once more; allow no names but those of a pattern."""
    if isinstance(node, dict):
        kept = {k: _tidy(v) for k, v in node.items() if not (k == "title" and isinstance(v, str))}
        closed = {"additionalProperties": False} if "patternProperties" in node else {}
        return {**kept, **closed}
    return [_tidy(part) for part in node] if isinstance(node, list) else node
