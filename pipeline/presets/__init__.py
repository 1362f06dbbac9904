"""Presets: complete params files for the tasks of the field, and how to write one out."""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.arms import ARMS, changes_of, needs_target
from store.atomic import write_bytes
from store.errors import ConfigError

BASES: Final[Mapping[str, str]] = {
    "synthia-to-cityscapes": "gta5-to-cityscapes",
    "cityscapes-to-acdc": "gta5-to-cityscapes",
    "cityscapes-to-dark-zurich": "gta5-to-cityscapes",
    "gta5-generalization": "gta5-to-cityscapes",
    "folders-small": "folders",
}
"""Presets whose file holds only what differs -> the preset that they differ from."""

OWN_FOLDERS: Final = frozenset({"folders", "folders-small"})
"""Presets that are filled in with what lies in the folders given."""

PRESETS: Final = ("drawn", "camvid-day-to-dusk", "folders", "gta5-to-cityscapes", *BASES)


def write_preset(
    name: str,
    path: Path,
    *,
    arm: str,
    roots: Mapping[str, str | None],
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Write an arm of a preset as params file; of own folders, with what is found in them.

    Args:
        name: One of `PRESETS`.
        path: The params file; one that nobody edited is replaced.
        arm: One of `ARMS`.
        roots: Folder of `source` and `target`; None keeps the preset's.
        overwrite: Replace an edited file too.

    Returns:
        What was found, in sentences.

    Raises:
        ConfigError: If preset or arm are unknown, a target is given or needed where the preset has
            none, or the file was edited.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name}; the presets are {', '.join(PRESETS)}")
    if not _has_target(name):
        if roots.get("target") is not None:
            raise ConfigError(f"the preset {name} has no target; leave out --target")
        if needs_target(arm):
            raise ConfigError(
                f"the arm {arm} trains on a target, which the preset {name} does not have; take "
                "another arm"
            )
    text = render(name, arm=arm, roots=roots)
    if path.exists() and not overwrite and not _is_pristine(path):
        raise ConfigError(
            f"{path} was edited; move it away, or replace it with --force (it is not kept)"
        )
    if name not in OWN_FOLDERS or not any(roots.values()):
        write_bytes(path, text.encode())
        return ()
    from pipeline.proposal import fill_in, look  # decodes images

    proposal = look(roots)
    write_bytes(path, fill_in(text, proposal).encode())
    return proposal.said


def render(name: str, *, arm: str = "ssr", roots: Mapping[str, str | None]) -> str:
    """Return a preset's text, comments and all, with an arm's values and given folders put in.

    Raises:
        ConfigError: If the arm is unknown.
    """
    text = _packaged(name)
    if name in BASES:
        text = _overlay(_packaged(BASES[name]), text)
    given = iter((roots.get("source"), roots.get("target")))  # the order in which presets have them

    def put_in(line: re.Match[str]) -> str:
        root = next(given)
        if root is None:
            return line[0]
        plain = re.fullmatch(r"[\w./~-]+", root)  # anything else is quoted; JSON is YAML
        return f"    root: {root if plain else json.dumps(root)}"

    text = re.sub(r"^    root: .*$", put_in, text, flags=re.MULTILINE)
    for key, value in changes_of(arm).items():
        text = _change(text, key, value)
    return text


@cache
def _packaged(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.yaml").read_text()


def _overlay(base: str, changes: str) -> str:
    """Replace each key of a section that changes hold, with all below it, and the heading."""
    (_, sections), (heading, changed) = _cut(base), _cut(changes)
    for section, keys in changed.items():
        unknown = keys.keys() - sections[section].keys()
        assert not unknown, f"the base has no {section} {unknown}"
        sections[section] |= keys
    bodies = (f"{name}:\n{''.join(keys.values())}" for name, keys in sections.items())
    return heading + "".join(bodies)


def _cut(text: str) -> tuple[str, dict[str, dict[str, str]]]:
    """Cut a preset into its heading and, by section and key, the lines of each key."""
    heading, section, key = "", "", ""
    sections: dict[str, dict[str, str]] = {}
    for line in text.splitlines(keepends=True):
        if line.startswith("#"):
            heading += line
        elif opens := re.fullmatch(r"(\w+):\n", line):
            section = opens[1]
            sections[section] = {}
        else:
            key = begins[1] if (begins := re.match(r"  (\w+):", line)) else key
            sections[section][key] = sections[section].get(key, "") + line
    return heading, sections


@cache
def _has_target(name: str) -> bool:
    return YAML(typ="safe").load(_packaged(name))["prepare"]["target"] is not None


def _change(text: str, key: str, value: str) -> str:
    """Give a key below `train` another value or a place; a comment stays, at its column if free."""
    *sections, name = key.split(".")
    indent = "  " * (len(sections) + 1)

    def put_in(lines: re.Match[str]) -> str:
        column = lines.start("comment") - lines.start()
        return f"{f'{indent}{name}: {value}  ':<{column}}{lines['comment']}".rstrip() + "\n"

    below = rf"(?:{indent}  .*\n)*"  # what the new value replaces, where the old one is a section
    pattern = rf"^{indent}{name}:[^#\n]*(?P<comment>(?:#.*)?)\n{below}"
    before, begins, train = text.partition("\ntrain:\n")  # other sections have keys of that name
    train, count = re.subn(pattern, put_in, train, flags=re.MULTILINE)
    if not count:  # a key of another kind of the section than the preset's: its last line
        section = rf"^{indent[2:]}{sections[-1]}:.*\n(?:{indent}.*\n)*"
        train, count = re.subn(
            section, lambda lines: f"{lines[0]}{indent}{name}: {value}\n", train, flags=re.MULTILINE
        )
    assert count == 1, f"presets have {count} places for {key} below train"
    return before + begins + train


def _is_pristine(path: Path) -> bool:
    """Tell whether a file is what an arm of some preset with some folders renders to."""
    try:
        text = path.read_text()
        prepare: dict[str, Any] = YAML(typ="safe").load(text)["prepare"]
        roots = {
            domain: None if prepare[domain] is None else prepare[domain]["root"]
            for domain in ("source", "target")
        }
    except (OSError, YAMLError, KeyError, TypeError, ValueError, RecursionError):
        return False
    names = [name for name in PRESETS if text.startswith(f"# {name}: ")]
    texts = [render(name, arm=arm, roots=roots) for name in names for arm in ARMS]
    if text in texts or not names or not OWN_FOLDERS.issuperset(names):
        return text in texts
    from pipeline.proposal import fill_in, look

    proposal = look(roots)
    return any(text == fill_in(one, proposal) for one in texts)
