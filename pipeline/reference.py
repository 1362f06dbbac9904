"""References written from the code: every key in `docs/params.md`, every command in `docs/cli.md`.

`python -m pipeline.reference` writes them, and the schema with which editors complete
`params.yaml`. A test requires that what is checked in is what this would write.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.params import Params

COMMAND: Final = "python -m pipeline.reference"

Schema = Mapping[str, Any]

_TYPES: Final[Mapping[str, str]] = {
    "integer": "whole number",
    "string": "text",
    "boolean": "`true` or `false`",
}
_BOUNDS: Final = {
    "minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most",
    "exclusiveMaximum": "below", "multipleOf": "a multiple of",
}  # fmt: skip


def references() -> dict[str, str]:
    """Return path in the repository -> text of every generated file.

    Raises:
        ValueError: A key has no description.
    """
    import typer
    from typer.cli import get_docs_for_click

    from pipeline.cli import app

    schema = params_schema()
    command = typer.main.get_command(app)
    commands = get_docs_for_click(obj=command, ctx=typer.Context(command), name="ssr")
    commands = commands.replace("\b\n", "").rstrip()  # \b keeps lines of help in a terminal
    return {
        "docs/params.md": "\n".join(_keys_page(schema)) + "\n",
        "docs/cli.md": f"{commands}\n\n*Written by `{COMMAND}`; do not edit it.*\n",
        "pipeline/params.schema.json": json.dumps(schema, indent=1, ensure_ascii=False) + "\n",
    }


def params_schema() -> dict[str, Any]:
    """Return the JSON schema of `params.yaml`; checks between keys are not part of it."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**dialect, **_tidy(Params.model_json_schema())}


def _tidy(node: Any) -> Any:  # noqa: ANN401 - JSON
    """Leave out titles, which are the keys once more; allow no names but those of a pattern."""
    if isinstance(node, dict):
        kept = {k: _tidy(v) for k, v in node.items() if not (k == "title" and isinstance(v, str))}
        return kept | ({"additionalProperties": False} if "patternProperties" in node else {})
    return [_tidy(part) for part in node] if isinstance(node, list) else node


def _keys_page(schema: Schema) -> Iterator[str]:
    """Yield the lines of the page: a table for each section, then one for each kind of a union."""
    yield f"# Keys of params.yaml\n\nWritten by `{COMMAND}`; do not edit it."
    yield "Every key must be in the file, unless its default is said here."
    for section, node in schema["properties"].items():
        yield from _table(section, f"{section}.", schema["$defs"][_name(node)], schema["$defs"])
    for model in schema["$defs"].values():
        if "const" in (kind := model.get("properties", {}).get("kind", {})):
            yield from _table(f"kind: {kind['const']}", "", model, schema["$defs"])


def _table(title: str, prefix: str, model: Schema, models: Schema) -> Iterator[str]:
    yield f"\n## `{title}`\n\n{_text(model, title)}\n\n| key | value | |\n|---|---|---|"
    yield from _rows(prefix, model, models)


def _rows(prefix: str, model: Schema, models: Schema) -> Iterator[str]:
    """Yield a row for each key of a model, and after it those of the sections in it."""
    for key, node in model["properties"].items():
        default = f"Default `{json.dumps(node['default'])}`. " if "default" in node else ""
        yield f"| `{prefix}{key}` | {_words(node, models)} | {default}{_text(node, prefix + key)} |"
        parts = [(part, "") for part in (node, *node.get("anyOf", ()))]
        for below, suffix in [*parts, (node.get("items", {}), "[]")]:
            section = models[_name(below)] if "$ref" in below else {}
            if "properties" in section:
                yield from _rows(f"{prefix}{key}{suffix}.", section, models)


def _words(node: Schema, models: Schema) -> str:
    """Say what a value may be."""
    if "$ref" in node:
        model = models[_name(node)]
        return "section" if "properties" in model else _words(model, models)
    if "oneOf" in node:
        kinds = (models[_name(part)]["properties"]["kind"]["const"] for part in node["oneOf"])
        return f"section, its kind is {_choice(kinds)}"
    if "anyOf" in node:
        return ", or ".join(_words(part, models) for part in node["anyOf"])
    if "const" in node or "enum" in node:
        return _choice(node.get("enum", [node.get("const")]))
    if "prefixItems" in node:
        items = dict.fromkeys(_words(item, models) for item in node["prefixItems"])
        return f"list of {len(node['prefixItems'])} ({'; '.join(items)})"
    if node.get("type") == "array":
        least = f" of at least {node['minItems']}" if "minItems" in node else ""
        return f"list{least} ({_words(node['items'], models)})"
    if node.get("type") == "object":
        (below,) = node.get("patternProperties", {"": node.get("additionalProperties")}).values()
        return f"{_words(below, models)}, each by a name of your choice"
    bounds = [f"{words} {node[name]}" for name, words in _BOUNDS.items() if name in node]
    return ", ".join([_TYPES.get(node["type"], str(node["type"])), *bounds])


def _name(node: Schema) -> str:
    return str(node["$ref"]).rpartition("/")[2]


def _text(node: Schema, what: str) -> str:
    """Return a description in one line of a table."""
    if not node.get("description"):
        raise ValueError(f"{what} has no description: give it one beside its model")
    return " ".join(str(node["description"]).split()).replace("|", "\\|")


def _choice(values: Any) -> str:  # noqa: ANN401 - JSON
    return ", ".join(f"`{one if isinstance(one, str) else json.dumps(one)}`" for one in values)


if __name__ == "__main__":
    from pipeline.console import console
    from store.atomic import update_bytes

    for path, text in references().items():
        written = update_bytes(Path(__file__).parents[1] / path, text.encode())
        console.print(f"{path}: {'written' if written else 'as it was'}")
