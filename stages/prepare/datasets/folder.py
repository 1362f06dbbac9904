"""A user's own images and labels, described by a class table in params.yaml."""

from collections import Counter
from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.fields import RGB, Byte, Name, Section, Split
from stages.prepare.datasets.dataset import FileDataset, Listing, PathInRoot, Progress
from stages.prepare.labels import IGNORE, ClassTable, LabelTable


class FolderClass(Section):
    """One class of a user's own dataset."""

    name: Name = Field(description="Name in tables and pictures.")
    color: RGB = Field(description="Colour in pictures, and in label files that store colours.")
    ids: tuple[Byte, ...] = Field(
        default=(), description="Values of the class in label files that store ids."
    )


class Config(FileDataset):
    """Any folders of images and label PNGs; a label has its image's path and name, or nearly."""

    terms: ClassVar = "a dataset of the trainer's own, whose terms apply"
    remedy: ClassVar = "put the data there or correct the path {key}"

    kind: Literal["folder"] = Field(description="Which dataset this is.")
    train_images: PathInRoot | None = Field(
        description="Folder of the images to train on; null for a dataset that only measures."
    )
    train_labels: PathInRoot | None = Field(
        description="Folder of their labels; null for a target, where they are not looked at."
    )
    val_images: PathInRoot | None = Field(description="Folder of images to evaluate on, or null.")
    val_labels: PathInRoot | None = Field(description="Folder of their labels, or null.")
    val_share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of the training images, the last by name, that is held out to evaluate "
        "on where val_images is null.",
    )
    image_suffix: str = Field(
        default="",
        description="End of image names, before the dot, that labels lack: _leftImg8bit.",
    )
    label_suffix: str = Field(
        default="", description="End of label names that images lack: a_L.png of a.jpg has _L."
    )
    classes: tuple[FolderClass, ...] = Field(
        min_length=2, max_length=255, description="Classes in the order of their train ids."
    )
    ignore_ids: tuple[Byte, ...] = Field(
        default=(), description="Values of pixels without a class."
    )
    ignore_colors: tuple[RGB, ...] = Field(
        default=(), description="Their colours, in label files that store colours."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.val_images is None) != (self.val_labels is None):
            raise ValueError("val_images and val_labels go together: set both or neither")
        if self.val_share is not None and (
            self.val_images is not None or self.train_images is None or self.train_labels is None
        ):
            raise ValueError(
                "val_share holds out labelled images of train: set it to null where val_images is "
                "given, or there are no train_labels"
            )
        ids = [i for entry in self.classes for i in entry.ids]
        for what, values in (
            ("class name", [entry.name for entry in self.classes]),
            ("label id", [*ids, *self.ignore_ids]),
            ("colour", [*(entry.color for entry in self.classes), *self.ignore_colors]),
        ):
            twice = [value for value, times in Counter[object](values).items() if times > 1]
            if twice:
                raise ValueError(f"{what} {twice[0]!r} is used twice in the class table")
        return self

    def scan(self, progress: Progress) -> Listing:
        """List images, in subfolders too, each with `<labels>/<same path><label_suffix>.png`."""
        folders: dict[Split, tuple[str | None, str | None]] = {
            "train": (self.train_images, self.train_labels),
            "val": (self.val_images, self.val_labels),
        }
        classes = ClassTable(
            names=tuple(entry.name for entry in self.classes),
            palette=tuple(entry.color for entry in self.classes),
        )
        table = LabelTable(
            ids={i: train_id for train_id, entry in enumerate(self.classes) for i in entry.ids}
            | dict.fromkeys(self.ignore_ids, IGNORE),
            colors={entry.color: train_id for train_id, entry in enumerate(self.classes)}
            | dict.fromkeys(self.ignore_colors, IGNORE),
        )
        listing = Listing(classes, table)
        for split, (images, labels) in folders.items():
            if images is not None:
                self.pair(
                    listing,
                    split,
                    images,
                    labels,
                    image_suffix=self.image_suffix,
                    label_suffix=self.label_suffix,
                    others=[folder for both in folders.values() for folder in both],
                )
        if self.val_share and listing.items:
            # Of videos, where neighbours are alike, the last sequences.
            held = max(1, round(len(listing.items) * self.val_share))
            listing.items[-held:] = [replace(i, split="val") for i in listing.items[-held:]]
        return listing

    def key_of(self, split: Split, what: Literal["images", "labels"]) -> str:
        """Return the key that names a folder."""
        place = "train" if split == "val" and self.val_images is None else split
        return f"{place}_{what}"
