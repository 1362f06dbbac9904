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
BOUNDS: Final = {
    **{"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"},
    "multipleOf": "a multiple of",
}

Schema = Mapping[str, Any]


def references() -> dict[str, str]:
    """Return path in the repository -> text of every generated file."""
    import typer
    from typer.cli import get_docs_for_click

    from pipeline.cli import app

    schema = Params.model_json_schema()
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    command = typer.main.get_command(app)
    commands = get_docs_for_click(obj=command, ctx=typer.Context(command), name="ssr")
    commands = commands.replace("\b\n", "").rstrip()  # \b keeps lines of help in a terminal
    return {
        "docs/params.md": "\n".join(_keys_page(schema)) + "\n",
        "docs/cli.md": f"{commands}\n\n*Written by `{COMMAND}`; do not edit it.*\n",
        "pipeline/params.schema.json": json.dumps({**dialect, **schema}, indent=1) + "\n",
    }


def _keys_page(schema: Schema) -> Iterator[str]:
    """Yield the lines of the page: a table for each section, then one for each kind of a union."""
    yield f"# Keys of params.yaml\n\nWritten by `{COMMAND}`; do not edit it."
    yield "Every key must be in the file, unless its default is said here."
    models = schema["$defs"]
    sections = schema["properties"].items()
    tables = []
    for name, node in sections:
        section, *_ = (part for part in (node, *node.get("anyOf", ())) if "$ref" in part)
        tables.append((name, f"{name}.", _model(section, models)))
    for model in models.values():
        if "const" in (kind := model.get("properties", {}).get("kind", {})):
            tables.append((f"kind: {kind['const']}", "", model))
    for title, prefix, model in tables:
        yield f"\n## `{title}`\n\n{_text(model)}\n\n| key | value | |\n|---|---|---|"
        yield from _rows(prefix, model, models)


def _rows(prefix: str, model: Schema, models: Schema) -> Iterator[str]:
    """Yield a row for each key of a model, and after it those of the sections in it."""
    for key, node in model["properties"].items():
        default = f"Default `{json.dumps(node['default'])}`. " if "default" in node else ""
        yield f"| `{prefix}{key}` | {_words(node, models)} | {default}{_text(node)} |"
        parts = [(part, "") for part in (node, *node.get("anyOf", ()))]
        for below, suffix in [*parts, (node.get("items", {}), "[]")]:
            section = _model(below, models)
            if "properties" in section:
                yield from _rows(f"{prefix}{key}{suffix}.", section, models)


def _words(node: Schema, models: Schema) -> str:
    """Say what a value may be."""
    if "$ref" in node:
        model = _model(node, models)
        return "section" if "properties" in model else _words(model, models)
    if "oneOf" in node:
        return "section of a kind: " + ", ".join(node["discriminator"]["mapping"])
    if "anyOf" in node:
        return ", or ".join(_words(part, models) for part in node["anyOf"])
    if "const" in node or "enum" in node:
        return ", ".join(f"`{json.dumps(one)}`" for one in node.get("enum", [node.get("const")]))
    if node["type"] == "array":
        items = node.get("prefixItems", [node.get("items")])
        words = "; ".join(dict.fromkeys(_words(item, models) for item in items))
        count = f" of {len(items)}" if "prefixItems" in node else ""
        return f"list{count} ({words})"
    if node["type"] == "object":
        (below,) = node.get("patternProperties", {"": node.get("additionalProperties")}).values()
        return f"{_words(below, models)}, each by a name of your choice"
    bounds = [f"{sign} {node[name]}" for name, sign in BOUNDS.items() if name in node]
    return ", ".join([node["type"], *bounds])


def _model(node: Schema, models: Schema) -> Schema:
    model: Schema = models[node["$ref"].rpartition("/")[2]] if "$ref" in node else {}
    return model


def _text(node: Schema) -> str:
    return " ".join(node["description"].split()).replace("|", "\\|")


if __name__ == "__main__":
    from store.atomic import update_bytes

    for path, text in references().items():
        update_bytes(Path(__file__).parents[1] / path, text.encode())
