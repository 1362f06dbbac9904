"""What `ssr init` proposes for a user's own folders, and `ssr classes` for their labels."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from stages.prepare.datasets.listing import LABEL_SUFFIXES, files_under, is_within
from stages.prepare.geometry import Size, fit_size
from stages.prepare.labels import IGNORE
from stages.prepare.palettes import THINGS
from stages.prepare.pixels import read_image
from stages.prepare.proposed_classes import ProposedClasses, propose_classes
from stages.prepare.proposed_folders import (
    SplitFolders,
    ending_of,
    find_splits,
    is_in_labels,
)
from store.errors import DataError
from store.url import local_path

MOST_IMAGES: Final = 8
"""Images of a domain whose size is looked at."""

VAL_SHARE: Final = 0.1

_FEATURE_DISTANCE: Final = "name the things: {weight: 0.005, classes: [car], min_share: 0.75}"


@dataclass(frozen=True)
class Proposal:
    """What was found in the folders of `source` and `target`.

    Attributes:
        keys: Domain -> values of its section of `prepare`, but for the next two.
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


class _WithNull(RoundTripRepresenter):
    """Writes null as `null`, as the presets do."""

    def represent_none(self, data: None) -> ScalarNode:
        node: ScalarNode = self.represent_scalar("tag:yaml.org,2002:null", "null")
        return node


_WithNull.add_representer(type(None), _WithNull.represent_none)


def look(roots: Mapping[str, str | None]) -> Proposal:
    """Look at the folders that there are: names, sizes of a few images, values of some labels.

    Args:
        roots: Folder of `source` and `target`, None where none was given.

    Raises:
        DataError: A folder cannot be listed.
    """
    keys: dict[str, dict[str, Any]] = {}
    sizes: dict[str, tuple[Size, bool]] = {}
    classes = ProposedClasses()
    said: list[str] = []
    for domain in ("source", "target"):
        given = roots.get(domain)
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
            classes = _classes(root, splits.values())
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


def fill_in(text: str, proposal: Proposal) -> str:
    """Put a proposal into the text of a preset for folders; comments stay."""
    if not proposal.keys:
        return text
    yaml = _yaml()
    tree = yaml.load(text)
    for domain, values in proposal.keys.items():
        for key, value in values.items():
            tree["prepare"][domain][key] = value
    _fit(tree, proposal.sizes)
    if proposal.evaluate is not None:
        tree["evaluate"]["domain"] = proposal.evaluate
    if proposal.classes.classes:
        _put_classes(tree, proposal.classes)
    return _dump(yaml, tree)


def classes_under(folder: Path) -> ProposedClasses:
    """Propose classes from the labels of a dataset, or of a folder of labels.

    Raises:
        DataError: There are no labels.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder: name one of labels, or a dataset")
    splits = find_splits(folder)
    classes = _classes(folder, splits.values())
    if not classes.said:
        everything, _ = files_under(folder, ".", LABEL_SUFFIXES)
        files = [file for file in everything if is_in_labels(file)] or everything
        classes = propose_classes([folder / f for f in files], suffix=ending_of(files))
    if not classes.classes:
        raise DataError(f"{folder}: {'; '.join(classes.said)}: there are no classes to propose")
    return classes


def classes_yaml(classes: ProposedClasses) -> str:
    """Write a class table as it is pasted into params.yaml, below `source`."""
    tree = CommentedMap(classes=CommentedSeq())
    tree["classes"].yaml_set_anchor("classes", always_dump=True)
    _fill_classes(tree, classes)
    return _dump(_yaml(), CommentedMap(prepare=CommentedMap(source=tree))).partition("source:\n")[2]


def _folders(domain: str, splits: Mapping[str, SplitFolders], said: list[str]) -> dict[str, Any]:
    """Return the keys of a domain's folders, and say what they are."""
    train, pairing = splits["train"], splits["train"].pairing
    val = next((splits[s] for s in ("val", "test") if s in splits and splits[s].pairing), None)
    if pairing is None and val is not None:
        pairing = val.pairing
    suffixes = (pairing.image_suffix, pairing.label_suffix) if pairing else ("", "")
    if val is not None and val.pairing is not None:
        own = (val.pairing.image_suffix, val.pairing.label_suffix)
        if own != suffixes:
            said.append(f"{domain}: labels in {val.pairing.labels} are named otherwise; not used")
            val = None
    labels = train.pairing.labels if train.pairing else None
    if domain == "target" and labels is not None and not is_within(labels, train.images):
        labels = None  # not needed; among the images they are named, to be told from these
    if domain == "source" and labels is None:
        said.append("source: no labels were found; set train_labels, and label_suffix if need be")
        labels = "train/labels"
    said.append(f"{domain}: {_count(train)} to train on")
    if val is not None:
        said.append(f"{domain}: {_count(val)} to measure on")
    found = {
        "train_images": train.images,
        "train_labels": labels,
        "val_images": val.images if val else None,
        "val_labels": val.pairing.labels if val and val.pairing else None,
        "image_suffix": suffixes[0],
        "label_suffix": suffixes[1],
    }
    for name in found.values():
        if name is not None and not name.isprintable():
            raise DataError(f"prepare.{domain}: the name {name!a} cannot be written: rename it")
    return found


def _count(split: SplitFolders) -> str:
    found = f"{len(split.files)} images in {split.images}"
    if split.pairing is None:
        return found
    named = f" (*{split.pairing.label_suffix}.png)" if split.pairing.label_suffix else ""
    return f"{found}, {split.pairing.matched} with a label in {split.pairing.labels}{named}"


def _size(root: Path, files: Sequence[str]) -> tuple[Size, bool] | None:
    """Return the size of most of a few images, and whether all have it; None if none is read."""
    sizes: Counter[Size] = Counter()
    for file in files[:: -(-len(files) // MOST_IMAGES)]:
        try:
            height, width, _ = read_image(root / file).shape
        except DataError:
            continue
        sizes[height, width] += 1
    return (sizes.most_common(1)[0][0], len(sizes) == 1) if sizes else None


def _fit(tree: Any, sizes: Mapping[str, tuple[Size, bool]]) -> None:  # noqa: ANN401 - of ruamel
    """Keep the preset's shorter side at the ratio of the images, and enlarge none."""
    sides = []
    for domain, (size, is_every) in sizes.items():
        section = tree["prepare"][domain]
        side = min(*section["fit_px"], *size)
        ratio = side / min(size)
        height, width = (round(length * ratio) for length in size)
        section["fit_px"] = None if ratio == 1 and is_every else _flow([width, height])
        sides.append(min(fit_size(size, (width, height))))
    if sides:
        tree["train"]["crop_px"] = min(tree["train"]["crop_px"], max(min(sides) // 32, 1) * 32)


def _classes(root: Path, splits: Iterable[SplitFolders]) -> ProposedClasses:
    """Propose classes from all labels of a dataset; nothing is said where there are none."""
    pairings = [split.pairing for split in splits if split.pairing is not None]
    files = sorted({root / file for pairing in pairings for file in pairing.files})
    return propose_classes(files, suffix=pairings[0].label_suffix) if files else ProposedClasses()


def _put_classes(tree: Any, proposed: ProposedClasses) -> None:  # noqa: ANN401 - of ruamel
    """Put classes below the source, from which the target takes them, and what depends on them."""
    source, target = tree["prepare"]["source"], tree["prepare"]["target"]
    source.yaml_set_comment_before_after_key(
        "classes",
        before="proposed from the labels: rename, join ids, ignore what is none",
        indent=4,
    )
    _fill_classes(source, proposed)
    _ignore(target, proposed)
    if tree["train"]["feature_distance"] is not None:
        things = [entry.name for entry in proposed.classes if entry.name in THINGS]
        if things:
            tree["train"]["feature_distance"]["classes"] = _flow(things)
        else:
            tree["train"]["feature_distance"] = None
            tree["train"].yaml_add_eol_comment(_FEATURE_DISTANCE, "feature_distance")


def _fill_classes(section: CommentedMap, proposed: ProposedClasses) -> None:
    """Replace the classes of a section in place, so that an alias of them stays one."""
    classes = section["classes"]
    classes.clear()
    for place, entry in enumerate(proposed.classes):
        line = CommentedMap(name=entry.name, color=_flow(entry.color))
        if entry.ids:
            line["ids"] = _flow(entry.ids)
        line.fa.set_flow_style()
        classes.append(line)
        classes.yaml_add_eol_comment(f"{entry.share:.2%} of the pixels", place, column=70)
    _ignore(section, proposed)


def _ignore(section: CommentedMap, proposed: ProposedClasses) -> None:
    ids = {i for entry in proposed.classes for i in entry.ids}
    colors = {entry.color for entry in proposed.classes}
    section["ignore_ids"] = _flow(sorted({*proposed.ignore_ids, IGNORE} - ids))
    section["ignore_colors"] = _flow(
        [_flow(color) for color in sorted({*proposed.ignore_colors, (0, 0, 0)} - colors)]
    )


def _flow(values: Sequence[Any]) -> CommentedSeq:
    sequence = CommentedSeq(values)
    sequence.fa.set_flow_style()
    return sequence


def _yaml() -> YAML:
    yaml = YAML()
    yaml.Representer = _WithNull
    yaml.width, yaml.preserve_quotes = 10_000, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _dump(yaml: YAML, tree: Any) -> str:  # noqa: ANN401 - of ruamel
    stream = StringIO()
    yaml.dump(tree, stream)
    return stream.getvalue()
