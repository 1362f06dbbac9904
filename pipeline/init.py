"""`ssr init` and `ssr classes`: a params file from a preset and from what lies in one's folders."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipeline.params import validate_params
from pipeline.presets import ARMS, PRESETS, dump, flow, preset, render
from stages.prepare.geometry import Size, fit_size
from stages.prepare.labels import IGNORE
from stages.prepare.pixels import read_image
from stages.prepare.proposal import (
    ProposedClasses,
    SplitFolders,
    classes_of_splits,
    find_splits,
    sampling_for,
)
from store.atomic import write_bytes
from store.errors import ConfigError, DataError
from store.files import local_path

OWN_FOLDERS: Final = frozenset({"folders", "folders-small"})
"""Presets that are filled in with what lies in the folders given."""

_VAL_SHARE: Final = 0.1
_MOST_IMAGES: Final = 8  # of a domain, whose size is looked at
_THINGS: Final = {
    *("person", "pedestrian", "child", "rider", "bicyclist", "car", "truck", "bus", "train"),
    *("motorcycle", "motorbike", "bicycle", "animal"),
}


def write_preset(
    name: str, path: Path, *, arm: str, roots: Mapping[str, str], overwrite: bool = False
) -> list[str]:
    """Write an arm of a preset as params file; of own folders, with what is found in them.

    A file that nobody edited is replaced. Roots are the folders of `source`, then `target`, that
    replace the preset's. Returns what was found, in sentences.

    Raises:
        ConfigError: Preset or arm are unknown, a target is given or needed and the preset has
            none, or the file was edited.
        DataError: A folder cannot be listed.
    """
    tree = preset(name, arm=arm, roots=roots)
    if tree["prepare"]["target"] is None and "target" in roots:
        raise ConfigError(f"the preset {name} has no target; leave out --target")
    validate_params(tree, origin=f"arm {arm} of preset {name}")
    if path.exists() and not overwrite and not _is_pristine(path):
        raise ConfigError(
            f"{path} was edited; move it away, or replace it with --force (it is not kept)"
        )
    said = _fill_in(tree, roots) if name in OWN_FOLDERS else []
    write_bytes(path, dump(tree).encode())
    return said


def classes_yaml(classes: ProposedClasses) -> str:
    """Write a class table as it is pasted into params.yaml, below `source`."""
    tree = CommentedMap(classes=CommentedSeq())
    tree["classes"].yaml_set_anchor("classes", always_dump=True)
    _put_classes(tree, classes)
    return dump(CommentedMap(prepare=CommentedMap(source=tree))).partition("source:\n")[2]


def _is_pristine(path: Path) -> bool:
    """Tell whether a file is what an arm of some preset renders to, whatever the folders."""
    try:
        text = path.read_text()
    except (OSError, ValueError):
        return False
    name = text[2:].partition(":")[0]
    root = re.compile(r"^    root: .*$", re.MULTILINE)
    for arm in ARMS if name in PRESETS else ():
        with suppress(ConfigError):  # the preset is none for the arm
            if root.sub("", text) == root.sub("", render(name, arm=arm, roots={})):
                return True
    return False


def _fill_in(tree: CommentedMap, roots: Mapping[str, str]) -> list[str]:
    """Put in what is found in the folders; return what to tell."""
    prepare, train = tree["prepare"], tree["train"]
    said: list[str] = []
    crops_px: list[int] = []
    evaluate, has_labels = None, False
    for domain, given in roots.items():
        root = local_path(given)
        splits = find_splits(root) if root.is_dir() else {}
        if "train" not in splits:
            what = "holds no images to train on" if root.is_dir() else "is not a folder yet"
            said.append(f"{domain}: {given} {what}; params.yaml has the usual names of folders")
            continue
        section = prepare[domain]
        section.update(_folders(domain, splits, said))
        if (sizes := _fit(section, root, splits["train"].files)) is not None:
            crops_px.append(min(sizes[1]))
            if domain == "source" and train["rare_class_sampling"] is not None:
                pixels, ratio = sampling_for(*sizes)
                train["rare_class_sampling"].update(min_pixels=pixels, min_crop_ratio=ratio)
        if section["val_images"]:
            evaluate = domain  # the target, if both have labels to measure on
        if domain == "source":
            classes = classes_of_splits(root, splits.values())
            said += (f"source: {line}" for line in classes.said)
            _propose(tree, classes)
            has_labels = bool(classes.said)
    if crops_px:
        train["crop_px"] = min(train["crop_px"], max(min(crops_px) // 32, 1) * 32)
        tree["prepare"]["pad_to_px"] = train["crop_px"]
    if evaluate is None and has_labels:
        evaluate = "source"
        prepare["source"]["val_share"] = _VAL_SHARE
        said.append(
            f"no labelled images to measure on: the last {_VAL_SHARE:.0%} of the source's are held "
            "out (val_share)"
        )
    if evaluate is not None:
        tree["evaluate"]["domain"] = evaluate
    return said


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
    among = labels is not None and PurePosixPath(labels).is_relative_to(train.images)
    if domain == "target" and not among:
        labels = None  # not needed; among the images they are named, to be told from these
    if domain == "source" and labels is None:
        said.append("source: no labels were found; set train_labels, and label_suffix if need be")
        labels = "train/labels"
    for split, purpose in ((train, "train on"), (val, "measure on")):
        if split is not None:
            labelled = f", {len(split.label_files)} with a label in {split.labels},"
            said.append(
                f"{domain}: {len(split.files)} images in {split.images}"
                f"{labelled if split.labels else ''} to {purpose}"
            )
    return {
        "train_images": train.images,
        "train_labels": labels,
        "val_images": val.images if val else None,
        "val_labels": val.labels if val else None,
        "image_suffix": suffixes[0],
        "label_suffix": suffixes[1],
    }


def _fit(section: CommentedMap, root: Path, files: Sequence[str]) -> tuple[Size, Size] | None:
    """Set the preset's shorter side at the ratio of most of a few images; none is enlarged.

    Returns the size of most, and the one that they get; None where none can be read.
    """
    sizes: Counter[Size] = Counter()
    for file in files[:: -(-len(files) // _MOST_IMAGES)]:
        with suppress(DataError):
            height, width, _ = read_image(root / file).shape
            sizes[height, width] += 1
    if not sizes:
        return None
    size = sizes.most_common(1)[0][0]
    ratio = min(*section["fit_px"], *size) / min(size)
    height, width = (round(length * ratio) for length in size)
    section["fit_px"] = None if ratio == 1 and len(sizes) == 1 else flow([width, height])
    return size, fit_size(size, (width, height))


def _propose(tree: CommentedMap, proposed: ProposedClasses) -> None:
    """Put the classes of the source's labels into the preset, and the things among them."""
    if not proposed.classes:
        return
    source, train = tree["prepare"]["source"], tree["train"]
    check = "proposed from the labels: rename, join ids, ignore what is none"
    source.yaml_set_comment_before_after_key("classes", before=check, indent=4)
    _put_classes(source, proposed)
    _put_ignored(tree["prepare"]["target"], proposed)
    things = [c.name for c in proposed.classes if c.name in _THINGS]
    if things and train["feature_distance"] is not None:
        train["feature_distance"]["classes"] = flow(things)
    else:
        train["feature_distance"] = None


def _put_classes(section: CommentedMap, proposed: ProposedClasses) -> None:
    classes = section["classes"]
    classes.clear()  # in place, so that an alias of them stays one
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
