"""What the shell offers for values of options, where `ssr --install-completion` was run.

Each function names all that there is; the shell shows what begins with what was typed.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pipeline.files import PARAMS

Names = Callable[[], list[str]]


def presets() -> list[str]:
    """Name the presets of `ssr init`."""
    from pipeline.presets import PRESETS

    return list(PRESETS)


def arms() -> list[str]:
    """Name the arms of `ssr init`."""
    from pipeline.arms import ARMS

    return list(ARMS)


def codecs() -> list[str]:
    """Name what `ssr convert` writes."""
    return ["int8", "int8-zstd", *(f"bitround-{bits}" for bits in range(1, 11))]


def class_tables() -> list[str]:
    """Name the classes of `ssr import`."""
    from stages.prepare.labels import CLASS_TABLES

    return list(CLASS_TABLES)


def devices() -> list[str]:
    """Name the devices of `ssr plan`."""
    from pipeline.devices import DEVICES

    return list(DEVICES)


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
