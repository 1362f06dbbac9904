"""A user's own images and labels, described by a class table in params.yaml."""

from dataclasses import replace

from stages.prepare.config import FolderConfig, Split, root_of
from stages.prepare.datasets.listing import Listing, Part, labelled_like
from stages.prepare.labels import IGNORE, ClassTable, LabelTable


def scan(config: FolderConfig) -> Listing:
    """List the images, in subfolders too, each with `<labels>/<same path><label_suffix>.png`."""
    root = root_of(config)
    folders: dict[Split, tuple[str | None, str | None]] = {
        "train": (config.train_images, config.train_labels),
        "val": (config.val_images, config.val_labels),
    }
    parts = [
        labelled_like(
            split,
            root,
            images,
            labels,
            image_suffix=config.image_suffix,
            label_suffix=config.label_suffix,
            others=[folder for both in folders.values() for folder in both],
            remedy=f"put the data there or correct the path {split}_images",
        )
        for split, (images, labels) in folders.items()
        if images is not None
    ]
    if config.val_share:
        parts[0] = _hold_out(parts[0], config.val_share)
    classes = ClassTable(
        names=tuple(entry.name for entry in config.classes),
        palette=tuple(entry.color for entry in config.classes),
    )
    labels = LabelTable(
        ids={i: train_id for train_id, entry in enumerate(config.classes) for i in entry.ids}
        | dict.fromkeys(config.ignore_ids, IGNORE),
        colors={entry.color: train_id for train_id, entry in enumerate(config.classes)}
        | dict.fromkeys(config.ignore_colors, IGNORE),
    )
    return Listing.of(classes, labels, parts)


def _hold_out(part: Part, share: float) -> Part:
    """Make the last images val: of videos, where neighbours are alike, the last sequences."""
    kept = len(part.items) - max(1, round(len(part.items) * share))
    held = (replace(item, split="val") for item in part.items[kept:])
    return replace(part, items=(*part.items[:kept], *held))
