"""A user's own images and labels, described by a class table in params.yaml."""

from stages.prepare.config import FolderConfig, root_of
from stages.prepare.labels import IGNORE, ClassTable, LabelTable
from stages.prepare.sources.listing import Item, Listing, labelled_like


def scan(config: FolderConfig) -> Listing:
    """List the images, in subfolders too, each with `<labels>/<same path>.png`."""
    root = root_of(config)
    items: tuple[Item, ...] = ()
    if config.train_images is not None:
        items += labelled_like("train", root, config.train_images, config.train_labels)
    if config.val_images is not None:
        items += labelled_like("val", root, config.val_images, config.val_labels)
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
    return Listing(classes, labels, items)
