"""What every source returns, and the walk through a folder of images."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from stages.prepare.config import Split
from stages.prepare.labels import ClassTable, LabelTable
from store.errors import DataError

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
"""Endings of image files, in lower case."""

REMEDY: Final = "put the data there or correct the path"
"""What to do about a missing folder of one's own; published datasets say what to download."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a split; paths are POSIX, relative to the dataset's root.

    Attributes:
        split: "train" or "val".
        image: The image file.
        label: Where its label belongs, whether or not there is a file; None where the
            configuration names no place for labels.
    """

    split: Split
    image: str
    label: str | None

    @property
    def stem(self) -> str:
        """The image's path without suffix: what image ids and `exclude` are made of."""
        return self.image.rpartition(".")[0]


@dataclass(frozen=True)
class Listing:
    """A dataset before any file was opened: its classes, the code of its labels, its images."""

    classes: ClassTable
    labels: LabelTable
    items: tuple[Item, ...]


def images_under(root: Path, folder: str, remedy: str = REMEDY) -> list[str]:
    """List all images under a folder and its subfolders, sorted; paths are relative to the root.

    Hidden files are passed over: file managers leave them. Anything else that does not look like
    an image is an error, because a misnamed image would be missed otherwise.

    Args:
        root: The dataset's folder.
        folder: Where its images are.
        remedy: What to do if the folder is missing.

    Raises:
        DataError: The folder is missing, holds no image, or holds other files.
    """
    require_folder(root / folder, remedy)
    files = sorted(visible_files(root, folder))
    strange = [file for file in files if not file.lower().endswith(IMAGE_SUFFIXES)]
    if strange:
        more = f" (and {len(strange) - 1} more like it)" if len(strange) > 1 else ""
        raise DataError(
            f"{root / strange[0]}: is not named like an image{more}: move it out of the folder"
        )
    if not files:
        raise DataError(f"{root / folder}: holds no images: put them there or correct the path")
    return files


def visible_files(root: Path, folder: str) -> Iterator[str]:
    """Walk through a folder and its subfolders, hidden ones left out; paths relative to the root.

    Raises:
        DataError: A folder cannot be listed.
    """
    for place, subfolders, names in os.walk(root / folder, onerror=_refuse, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        here = PurePosixPath(Path(place).relative_to(root))
        # Plain strings: for tens of thousands of files, path objects are what would take the time.
        prefix = "" if here == PurePosixPath() else f"{here}/"
        yield from (prefix + name for name in names if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise DataError(
        f"{error.filename}: cannot be listed ({error.strerror}): correct its permissions"
    ) from error


def require_folder(place: Path, remedy: str = REMEDY) -> None:
    """Raise DataError with what to do about it unless `place` is a folder."""
    if not place.is_dir():
        raise DataError(f"{place}: there is no such folder: {remedy}")


def labelled_like(
    split: Split, root: Path, images: str, labels: str | None, *, remedy: str = REMEDY
) -> tuple[Item, ...]:
    """Pair each image with the PNG of the same relative path and stem in the labels' folder."""
    skip = len(PurePosixPath(images).parts)

    def label_of(image: str) -> str | None:
        stem = image.rpartition(".")[0].split("/", skip)[-1]
        return None if labels is None else f"{labels}/{stem}.png"

    return tuple(
        Item(split, image, label_of(image)) for image in images_under(root, images, remedy)
    )
