"""`ssr init` and `ssr classes`: a params file from a preset and from what lies in one's folders."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from pipeline.presets import ARMS, PRESETS, dump, flow, needs_target, preset
from stages.prepare.datasets.dataset import is_within
from stages.prepare.geometry import Size, fit_size
from stages.prepare.labels import IGNORE
from stages.prepare.pixels import read_image
from stages.prepare.proposal import (
    ProposedClasses,
    SplitFolders,
    classes_of_splits,
    find_splits,
)
from store.atomic import write_bytes
from store.errors import ConfigError, DataError
from store.files import local_path

OWN_FOLDERS: Final = frozenset({"folders", "folders-small"})
"""Presets that are filled in with what lies in the folders given."""

VAL_SHARE: Final = 0.1

_MOST_IMAGES: Final = 8  # of a domain, whose size is looked at
_THINGS: Final = {
    *("person", "pedestrian", "child", "rider", "bicyclist", "car", "truck", "bus", "train"),
    *("motorcycle", "motorbike", "bicycle", "animal"),
}
_FEATURE_DISTANCE: Final = "name the things: {weight: 0.005, classes: [car], min_share: 0.75}"


@dataclass(frozen=True)
class Proposal:
    """What was found in the folders of `source` and `target`.

    Attributes:
        keys: Domain -> values of its section of `prepare`.
        sizes: Domain -> (height, width) of most of its images, and whether all have it.
        classes: From the labels of the source.
        evaluate: Domain that has labels to measure on; None where neither has any.
        said: Sentences for the user.
    """

    keys: Mapping[str, Mapping[str, Any]]
    sizes: Mapping[str, tuple[Size, bool]]
    classes: ProposedClasses
    evaluate: str | None
    said: tuple[str, ...]


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
        ConfigError: Preset or arm are unknown, a target is given or needed and the preset has
            none, or the file was edited.
    """
    tree = preset(name, arm=arm, roots=roots)
    if tree["prepare"]["target"] is None and roots.get("target") is not None:
        raise ConfigError(f"the preset {name} has no target; leave out --target")
    if tree["prepare"]["target"] is None and needs_target(arm):
        raise ConfigError(
            f"the arm {arm} trains on a target, which the preset {name} does not have; take "
            "another arm"
        )
    if path.exists() and not overwrite and not _is_pristine(path):
        raise ConfigError(
            f"{path} was edited; move it away, or replace it with --force (it is not kept)"
        )
    proposal = _look(roots) if name in OWN_FOLDERS else None
    write_bytes(path, _filled_in(tree, proposal).encode())
    return proposal.said if proposal else ()


def classes_yaml(classes: ProposedClasses) -> str:
    """Write a class table as it is pasted into params.yaml, below `source`."""
    tree = CommentedMap(classes=CommentedSeq())
    tree["classes"].yaml_set_anchor("classes", always_dump=True)
    _put_classes(tree, classes)
    return dump(CommentedMap(prepare=CommentedMap(source=tree))).partition("source:\n")[2]


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
    name = next((name for name in PRESETS if text.startswith(f"# {name}: ")), None)
    if name is None:
        return False
    proposals = [None, _look(roots)] if name in OWN_FOLDERS else [None]
    return any(
        text == _filled_in(preset(name, arm=arm, roots=roots), proposal)
        for arm in ARMS
        for proposal in proposals
    )


def _look(roots: Mapping[str, str | None]) -> Proposal:
    """Look at the folders that there are: names, sizes of a few images, values of some labels.

    Raises:
        DataError: A folder cannot be listed.
    """
    keys: dict[str, dict[str, Any]] = {}
    sizes: dict[str, tuple[Size, bool]] = {}
    classes = ProposedClasses()
    said: list[str] = []
    for domain, given in roots.items():
        if given is None:
            continue
        root = local_path(given)
        splits = find_splits(root) if root.is_dir() else {}
        if "train" not in splits:
            what = "holds no images to train on" if root.is_dir() else "is no folder yet"
            said.append(f"{domain}: {given} {what}; params.yaml has the usual names of folders")
            continue
        keys[domain] = _folders(domain, splits, said)
        if size := _size(root, splits["train"].files):
            sizes[domain] = size
        if domain == "source":
            classes = classes_of_splits(root, splits.values())
            said += (f"source: {line}" for line in classes.said)
    evaluate = next((d for d in ("target", "source") if keys.get(d, {}).get("val_images")), None)
    if "source" in keys and evaluate is None and classes.said:
        keys["source"]["val_share"] = VAL_SHARE
        evaluate = "source"
        said.append(
            f"no labelled images to measure on: the last {VAL_SHARE:.0%} of the source's are held "
            "out (val_share)"
        )
    return Proposal(keys, sizes, classes, evaluate, tuple(said))


def _folders(domain: str, splits: Mapping[str, SplitFolders], said: list[str]) -> dict[str, Any]:
    """Return the keys of a domain's folders, and say what they are."""
    train = splits["train"]
    val = next((splits[s] for s in ("val", "test") if s in splits and splits[s].labels), None)
    named = train if train.labels or val is None else val
    suffixes = (named.image_suffix, named.label_suffix)
    if val is not None and (val.image_suffix, val.label_suffix) != suffixes:
        said.append(f"{domain}: labels in {val.labels} are named otherwise; not used")
        val = None
    labels = train.labels
    if domain == "target" and labels is not None and not is_within(labels, train.images):
        labels = None  # not needed; among the images they are named, to be told from these
    if domain == "source" and labels is None:
        said.append("source: no labels were found; set train_labels, and label_suffix if need be")
        labels = "train/labels"
    for split, purpose in ((train, "train on"), (val, "measure on")):
        if split is not None:
            said.append(f"{domain}: {_counted(split)} to {purpose}")
    found = {
        "train_images": train.images,
        "train_labels": labels,
        "val_images": val.images if val else None,
        "val_labels": val.labels if val else None,
        "image_suffix": suffixes[0],
        "label_suffix": suffixes[1],
    }
    for name in found.values():
        if name is not None and not name.isprintable():
            raise DataError(f"prepare.{domain}: the name {name!a} cannot be written: rename it")
    return found


def _counted(split: SplitFolders) -> str:
    found = f"{len(split.files)} images in {split.images}"
    if split.labels is None:
        return found
    named = f" (*{split.label_suffix}.png)" if split.label_suffix else ""
    return f"{found}, {len(split.label_files)} with a label in {split.labels}{named}"


def _size(root: Path, files: Sequence[str]) -> tuple[Size, bool] | None:
    """Return the size of most of a few images, and whether all have it; None if none is read."""
    sizes: Counter[Size] = Counter()
    for file in files[:: -(-len(files) // _MOST_IMAGES)]:
        try:
            height, width, _ = read_image(root / file).shape
        except DataError:
            continue
        sizes[height, width] += 1
    return (sizes.most_common(1)[0][0], len(sizes) == 1) if sizes else None


def _filled_in(tree: CommentedMap, proposal: Proposal | None) -> str:
    """Write a preset with a proposal put in; comments stay."""
    if proposal is None:
        return dump(tree)
    train, sides = tree["train"], []
    for domain, values in proposal.keys.items():
        tree["prepare"][domain].update(values)
    for domain, (size, is_every) in proposal.sizes.items():
        # The preset's shorter side at the ratio of the images; none is enlarged.
        section = tree["prepare"][domain]
        ratio = min(*section["fit_px"], *size) / min(size)
        height, width = (round(length * ratio) for length in size)
        section["fit_px"] = None if ratio == 1 and is_every else flow([width, height])
        sides.append(min(fit_size(size, (width, height))))
    if sides:
        train["crop_px"] = min(train["crop_px"], max(min(sides) // 32, 1) * 32)
        tree["prepare"]["pad_to_px"] = train["crop_px"]
    if proposal.evaluate is not None:
        tree["evaluate"]["domain"] = proposal.evaluate
    if proposal.classes.classes:
        source = tree["prepare"]["source"]
        source.yaml_set_comment_before_after_key(
            "classes",
            before="proposed from the labels: rename, join ids, ignore what is none",
            indent=4,
        )
        _put_classes(source, proposal.classes)
        _put_ignored(tree["prepare"]["target"], proposal.classes)
        things = [c.name for c in proposal.classes.classes if c.name in _THINGS]
        if train["feature_distance"] is not None and things:
            train["feature_distance"]["classes"] = flow(things)
        elif train["feature_distance"] is not None:
            train["feature_distance"] = None
            train.yaml_add_eol_comment(_FEATURE_DISTANCE, "feature_distance")
    return dump(tree)


def _put_classes(section: CommentedMap, proposed: ProposedClasses) -> None:
    """Replace the classes of a section in place, so that an alias of them stays one."""
    classes = section["classes"]
    classes.clear()
    for place, entry in enumerate(proposed.classes):
        line = CommentedMap(name=entry.name, color=flow(entry.color))
        if entry.ids:
            line["ids"] = flow(entry.ids)
        line.fa.set_flow_style()
        classes.append(line)
        classes.yaml_add_eol_comment(f"{entry.share:.2%} of the pixels", place, column=70)
    _put_ignored(section, proposed)


def _put_ignored(section: CommentedMap, proposed: ProposedClasses) -> None:
    ids = {i for entry in proposed.classes for i in entry.ids}
    colors = {entry.color for entry in proposed.classes}
    section["ignore_ids"] = flow(sorted({*proposed.ignore_ids, IGNORE} - ids))
    section["ignore_colors"] = flow(
        [flow(color) for color in sorted({*proposed.ignore_colors, (0, 0, 0)} - colors)]
    )
