"""Presets: complete params files for the tasks of the field, and how to write one out."""

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from store.atomic import write_bytes
from store.errors import ConfigError

PRESETS = ("drawn", "camvid-day-to-dusk", "gta5-to-cityscapes", "folders")


def write_preset(
    name: str, path: Path, *, roots: Mapping[str, str | None], overwrite: bool = False
) -> None:
    """Write a preset as params file.

    Args:
        name: One of `PRESETS`.
        path: The params file; one that nobody edited is replaced.
        roots: Folder of `source` and `target`; None keeps the preset's.
        overwrite: Replace an edited file too.

    Raises:
        ConfigError: If the preset is unknown, or the file was edited.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name}; the presets are {', '.join(PRESETS)}")
    if path.exists() and not overwrite and not _is_pristine(path):
        raise ConfigError(
            f"{path} was edited; move it away, or replace it with --force (it is not kept)"
        )
    write_bytes(path, render(name, roots=roots).encode())


def render(name: str, *, roots: Mapping[str, str | None]) -> str:
    """Return a preset's text, comments and all, with the given folders put in."""
    text = resources.files(__package__).joinpath(f"{name}.yaml").read_text()
    given = iter((roots.get("source"), roots.get("target")))  # the order in which presets have them

    def put_in(line: re.Match[str]) -> str:
        root = next(given)
        if root is None:
            return line[0]
        plain = re.fullmatch(r"[\w./~-]+", root)  # anything else is quoted; JSON is YAML
        return f"    root: {root if plain else json.dumps(root)}"

    return re.sub(r"^    root: .*$", put_in, text, flags=re.MULTILINE)


def _is_pristine(path: Path) -> bool:
    """Tell whether a file is what some preset with some folders renders to."""
    try:
        text = path.read_text()
        prepare: dict[str, Any] = YAML(typ="safe").load(text)["prepare"]
        roots = {domain: prepare[domain]["root"] for domain in ("source", "target")}
    except (OSError, YAMLError, KeyError, TypeError, UnicodeDecodeError):
        return False
    return any(text == render(name, roots=roots) for name in PRESETS)
