"""The page of commands, from the signatures of their functions."""

import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import typer


def commands_page(app: typer.Typer, command: str) -> str:
    """Return `docs/cli.md`: every command with its help, example and options.

    Args:
        app: All commands.
        command: What writes the page.

    Raises:
        ValueError: A command or an option has no description.
    """
    lines = [
        "# Commands",
        "",
        f"Written by `{command}`, which has them from the commands; do not edit it.",
    ]
    for entry in app.registered_commands:
        assert entry.callback is not None
        name = entry.name or entry.callback.__name__
        lines += ["", f"## ssr {name}", "", *_command(name, entry.callback)]
        if entry.epilog:
            lines += ["", *(f"    {line}" for line in entry.epilog.split("\n")[1:])]
    return "\n".join([*lines, ""])


def _command(name: str, callback: Callable[..., Any]) -> Iterator[str]:
    text, _, example = (inspect.getdoc(callback) or "").partition("Example: ")
    if not text.strip() or not example:
        raise ValueError(f"ssr {name} has no description with an example")
    yield text.strip()
    yield from ("", f"    {' '.join(example.split())}")
    hints = get_type_hints(callback, include_extras=True)
    rows = [
        _option(name, p, hints[p.name]) for p in inspect.signature(callback).parameters.values()
    ]
    if rows:
        yield from ("", "| option | |", "|---|---|")
    yield from rows


def _option(command: str, parameter: inspect.Parameter, hint: Any) -> str:  # noqa: ANN401 - a type
    kind, info = get_args(hint)[:2]
    words, required = [info.help], parameter.default is inspect.Parameter.empty
    if not info.help:
        raise ValueError(f"ssr {command}: {parameter.name} has no help")
    given = [part for part in get_args(kind) if part is not type(None)]
    kind = given[0] if given else kind
    repeated = get_origin(hint.__origin__) is list
    if isinstance(info, typer.models.ArgumentInfo):
        shown = f"`{info.metavar or parameter.name.upper()}`"
    else:
        # In `Annotated`, typer keeps the first name as the default.
        first = (info.default,) if isinstance(info.default, str) else ()
        names = (*first, *(info.param_decls or ())) or (f"--{parameter.name.replace('_', '-')}",)
        value = "" if kind is bool else f" {info.metavar or _metavar(kind)}"
        shown = ", ".join(f"`{flag}{value}`" for flag in names)
    if info.min is not None or info.max is not None:
        words.append(f"From {info.min}{'' if info.max is None else f' to {info.max}'}.")
    default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    if required:
        words.append("Required.")
    elif default not in (None, False, []):
        words.append(f"Default `{default}`.")
    if repeated:
        words.append("May be given several times.")
    return f"| {shown} | {' '.join(words)} |".replace("\n", " ")


def _metavar(kind: Any) -> str:  # noqa: ANN401 - a type
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "/".join(str(one.value) for one in kind)
    return {int: "N", float: "X", Path: "PATH", str: "TEXT"}[kind]
