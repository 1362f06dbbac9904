"""The page of keys, from the JSON schema of params.yaml."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Schema = Mapping[str, Any]

_TYPES: Final = {"integer": "whole number", "number": "number", "string": "text"}
_NULL: Final = {"type": "null"}


def keys_page(schema: Schema, command: str) -> str:
    """Return `docs/params.md`: what each key may be and what it does, section by section.

    Args:
        schema: JSON schema of all sections, as pydantic writes it.
        command: What writes the page.

    Raises:
        ValueError: A key or a section has no description.
    """
    page = _Page(schema["$defs"])
    page.add_section("", schema)
    page.add_kinds()
    return "\n".join(
        [
            "# Keys of params.yaml",
            "",
            f"Written by `{command}` from the models of the sections; do not edit it.",
            "Every key must be in the file, unless its default is said here.",
            *page.lines,
            "",
        ]
    )


@dataclass
class _Page:
    """The page of keys while it is written.

    Attributes:
        models: Name -> schema of each model.
        lines: What is written.
        kinds: Names of the models of a union -> the key where it was met first.
    """

    models: Mapping[str, Schema]
    lines: list[str] = field(default_factory=list)
    kinds: dict[tuple[str, ...], str] = field(default_factory=dict)

    def add_section(self, prefix: str, model: Schema, title: str = "") -> None:
        """Write a table of a model's keys, and after it those of the sections in it."""
        if title:
            self.lines += ["", title, "", _one_line(model, title)]
        if prefix or title:
            self.lines += ["", "| key | value | |", "|---|---|---|"]
            for key, node in model["properties"].items():
                self.lines.append(
                    f"| `{prefix}{key}` | {self.words(node, prefix + key)} | "
                    f"{_default(node)}{_one_line(node, prefix + key)} |"
                )
        for key, node in model["properties"].items():
            for suffix, section in self._sections_in(node):
                path = f"{prefix}{key}{suffix}"
                level = (
                    "#" * min(2 + path.count("."), 4)
                    if not title.startswith("### Kind")
                    else "####"
                )
                self.add_section(f"{path}.", section, f"{level} `{path}`")

    def add_kinds(self) -> None:
        """Write the unions that were met, a section for each of their models."""
        for names, key in self.kinds.items():
            self.lines += ["", f"## Kinds of `{key}`"]
            for name in names:
                model = self.models[name]
                kind = model["properties"]["kind"]["const"]
                self.add_section("", model, f"### Kind `{kind}`")

    def words(self, node: Schema, key: str) -> str:
        """Say what a value may be."""
        if "anyOf" in node:
            parts = [self.words(part, key) for part in node["anyOf"] if part != _NULL]
            return ", or ".join([*parts, *(["null"] if _NULL in node["anyOf"] else [])])
        if "oneOf" in node:
            names = tuple(_name(part) for part in node["oneOf"])
            first = self.kinds.setdefault(names, key)
            anchor = "".join(c for c in first if c.isalnum() or c == "_")
            return f"section, see [its kinds](#kinds-of-{anchor})"
        if "$ref" in node:
            model = self.models[_name(node)]
            return "section" if "properties" in model else self.words(model, key)
        if "const" in node or "enum" in node:
            return _choice([f"`{_yaml(one)}`" for one in node.get("enum", [node.get("const")])])
        match node.get("type"):
            case "boolean":
                return "`true` or `false`"
            case "array":
                return self._list(node, key)
            case "object":
                return f"{self.words(_named(node), key)}, each by a name of your choice"
            case kind:
                return f"{_TYPES[str(kind)]}{_bounds(node)}"

    def _list(self, node: Schema, key: str) -> str:
        if "prefixItems" in node:
            items = [self.words(item, key) for item in node["prefixItems"]]
            return (
                f"list of {len(items)} ({items[0] if len(set(items)) == 1 else '; '.join(items)})"
            )
        low, high = node.get("minItems"), node.get("maxItems")
        count = f" of {low} to {high}" if low and high else f" of at least {low}" if low else ""
        return f"list{count} ({self.words(node['items'], key)})"

    def _sections_in(self, node: Schema) -> Iterator[tuple[str, Schema]]:
        """Yield what is written behind the key, and the model, of each section in a value."""
        if "$ref" in node and "properties" in self.models[_name(node)]:
            yield "", self.models[_name(node)]
        for part in node.get("anyOf", ()):
            yield from self._sections_in(part)
        for suffix, below in (("[]", node.get("items")), (".NAME", _named(node))):
            if below:
                yield from ((suffix + more, model) for more, model in self._sections_in(below))


def _named(node: Schema) -> Schema:
    """Return what is behind names that the user chooses; empty where keys are fixed."""
    (below,) = node.get("patternProperties", {"": node.get("additionalProperties")}).values()
    return below if isinstance(below, Mapping) else {}


def _name(node: Schema) -> str:
    return str(node["$ref"]).rpartition("/")[2]


def _one_line(node: Schema, what: str) -> str:
    """Return a description in one line of a table."""
    if not node.get("description"):
        raise ValueError(f"{what} has no description: give it one beside its model")
    return " ".join(str(node["description"]).split()).replace("|", "\\|")


def _default(node: Schema) -> str:
    return f"Default `{_yaml(node['default'])}`. " if "default" in node else ""


def _yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _choice(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _bounds(node: Schema) -> str:
    words = [
        f"{text} {node[name]}"
        for name, text in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
            ("multipleOf", "a multiple of"),
        )
        if name in node
    ]
    if "minimum" in node and "maximum" in node:
        words[:2] = [f"{node['minimum']} to {node['maximum']}"]
    if node.get("minLength"):
        words.append("not empty")
    if "pattern" in node:
        words.append(f"`{node['pattern']}`".replace("|", "\\|"))
    return f", {', '.join(words)}" if words else ""
