"""Completion of values of options, where `ssr --install-completion` was run.

Each function names all that there is; the shell shows what begins with what was typed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path

from pipeline.files import PARAMS

Names = Callable[[], Iterable[str]]


def table(module: str, name: str) -> Names:
    """Name what a table has; its module is imported when the Tab key is pressed, not before."""
    return lambda: getattr(import_module(module), name)


def stores() -> list[str]:
    """Name the stores in the current folder."""
    return sorted(map(str, Path().glob("data/features/*/*.zarr")))


def keys() -> list[str]:
    """Name the keys of the params file in the current folder, as `-S` takes them."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        tree = YAML(typ="safe").load(PARAMS)
    except (OSError, YAMLError, ValueError, RecursionError):
        return []
    return [f"{key}=" for key in _leaves(tree)] if isinstance(tree, Mapping) else []


def of(names: Names) -> Callable[[str], list[str]]:
    """Make of these names what typer asks when the Tab key is pressed."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def _leaves(tree: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
