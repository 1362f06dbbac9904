"""Presets: complete params files for the tasks of the field, and the arms in which runs differ."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from store.errors import ConfigError

if TYPE_CHECKING:  # help has no need of it
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

BASES: Final[Mapping[str, str]] = {
    "synthia-to-cityscapes": "gta5-to-cityscapes",
    "cityscapes-to-acdc": "gta5-to-cityscapes",
    "cityscapes-to-dark-zurich": "gta5-to-cityscapes",
    "gta5-generalization": "gta5-to-cityscapes",
    "gta5-generalization-rein": "gta5-to-cityscapes",
    "gta5-generalization-restyle": "gta5-generalization",
    "gta5-to-cityscapes-dinov2": "gta5-to-cityscapes",
    "gta5-to-cityscapes-hrda": "gta5-to-cityscapes",
    "camvid-day-to-dusk-hrda": "camvid-day-to-dusk",
    "folders-small": "folders",
}
"""Presets whose file holds only what differs -> the preset that they differ from."""

PRESETS: Final = ("drawn", "camvid-day-to-dusk", "folders", "gta5-to-cityscapes", *BASES)


def dump(tree: Any) -> str:  # noqa: ANN401 - of ruamel
    """Write a tree of ruamel as the presets are written, comments and all."""
    stream = StringIO()
    _yaml().dump(tree, stream)
    return stream.getvalue()


def flow(values: Sequence[Any]) -> "CommentedSeq":
    """Return a list that is written in one line, in brackets."""
    from ruamel.yaml.comments import CommentedSeq

    sequence = CommentedSeq(values)
    sequence.fa.set_flow_style()
    return sequence


def preset(name: str, *, arm: str, roots: Mapping[str, str]) -> "CommentedMap":
    """Return a preset with an arm's values and given folders put in.

    Raises:
        ConfigError: Preset or arm are unknown, or the preset has no self-training for the arm.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name}; `ssr init --help` lists them")
    tree = _tree(name)
    for domain, root in roots.items():
        if tree["prepare"][domain] is not None:
            tree["prepare"][domain]["root"] = root
    for key, value in changes_of(arm).items():
        *sections, last = key.split(".")
        section = tree["train"]
        for part in sections:
            section = section[part]
        if section is None:
            raise ConfigError(f"the preset {name} has no train.{sections[0]}, which {arm} changes")
        section[last] = value
    return tree


def render(name: str, *, arm: str = "ssr", roots: Mapping[str, str]) -> str:
    """Return the text of a preset; as `preset`."""
    return dump(preset(name, arm=arm, roots=roots))


def changes_of(arm: str) -> "CommentedMap":
    """Return an arm's keys below `train` with their values.

    Raises:
        ConfigError: There is no such arm.
    """
    if arm not in ARMS:
        raise ConfigError(f"there is no arm {arm}; the arms are {', '.join(ARMS)}")
    changes: CommentedMap = _packaged("arms")[arm]
    return changes


def _tree(name: str) -> "CommentedMap":
    """Return a preset as it is packaged, with the keys and comments that it takes from another."""
    own = _packaged(name)
    if name not in BASES:
        return own
    base = _tree(BASES[name])
    base.ca.comment = own.ca.comment
    for title, section in own.items():
        if base[title] is None:
            base[title] = section
            base.ca.items.pop(title, None)
            continue
        for key, value in section.items():
            base[title][key] = value
            base[title].ca.items.pop(key, None)
            if key in section.ca.items:
                base[title].ca.items[key] = section.ca.items[key]
    return base


def _packaged(name: str) -> "CommentedMap":
    tree: CommentedMap = _yaml().load(_text(name))
    return tree


@cache
def _text(name: str) -> str:
    return Path(__file__).with_name(f"{name}.yaml").read_text()


@cache
def _yaml() -> "YAML":
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import ScalarNode
    from ruamel.yaml.representer import RoundTripRepresenter

    def null(representer: RoundTripRepresenter, data: None) -> ScalarNode:
        node: ScalarNode = representer.represent_scalar("tag:yaml.org,2002:null", "null")
        return node

    yaml = YAML()
    yaml.representer.add_representer(type(None), null)  # as the presets write it
    yaml.width, yaml.preserve_quotes = 10_000, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


ARMS: Final = tuple(re.findall(r"^([\w-]+):", _text("arms"), re.MULTILINE))
"""Arms of a comparison; `arms.yaml` has the keys below `train` in which their runs differ."""
