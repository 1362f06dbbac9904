"""Dataset: the base of every kind's `Config`, its listing, and the walk through its files."""

import os
import unicodedata
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from stages.fields import Name, NaturalInt, PathText, Section, SidePx, Split
from stages.prepare.labels import ClassTable, LabelTable
from store.errors import DataError

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""

IMAGE_SUFFIXES: Final = (".png", ".tif", ".tiff", ".bmp", ".ppm", ".webp", ".jpg", ".jpeg")
"""Endings of image and label files, in lower case; of labels the first that there is counts."""

# Folders that file servers, archivers and systems leave beside pictures: thumbnails, forks, bins.
_LEFTOVERS: Final = {
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "__macosx", "#recycle", "#snapshot"),
    *("$recycle.bin", "system volume information", "lost+found"),
}
_MOST: Final = 3


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a split; paths are POSIX, relative to the dataset's root.

    Attributes:
        label: Its label file, or where that belongs if there is none; None where the
            configuration names no place for labels.
    """

    split: Split
    image: str
    label: str | None

    @property
    def stem(self) -> str:
        """The image's path without suffix: what image ids and `exclude` are made of."""
        return _stem(self.image)


@dataclass
class Listing:
    """A dataset before any file was opened: its classes, the code of its labels, its images.

    Attributes:
        findings: Sentences about files that were passed over and labels without an image.
        problems: Sentences about what keeps folders from being listed.
    """

    classes: ClassTable
    labels: LabelTable
    items: list[Item] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def sound(self) -> "Listing":
        """Return the listing; DataError where folders are missing or hold no images."""
        if self.problems:
            raise DataError("\n".join(self.problems))
        return self


def _inside_root(path: str) -> str:
    if not path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"{path!r} must be a path inside root, written relative to it")
    return PurePosixPath(path).as_posix()


PathInRoot = Annotated[Name, AfterValidator(_inside_root)]


class Dataset(Section):
    """A dataset as params.yaml names it; a kind adds `kind`, its keys and how it is listed.

    Attributes:
        terms: Terms of the data, for the model card.
        class_table: Its classes; None where the user writes them.
    """

    terms: ClassVar[str]
    class_table: ClassVar[ClassTable | None] = None

    root: PathText = Field(description="Folder of the dataset.")
    fit_px: tuple[SidePx, SidePx] | None = Field(
        description="Width and height that images are scaled to fit in; null keeps their size."
    )
    labelled: NaturalInt | tuple[Name, ...] = Field(
        default=0,
        description="Of `prepare.target` alone: how many images to train on with their labels, "
        "evenly spread, or which, as paths in root without suffix; 0 is none.",
    )

    @property
    def folder(self) -> Path:
        """The root with `~` expanded."""
        return Path(self.root).expanduser()

    @property
    def identity(self) -> dict[str, Any]:
        """What the dataset is, in JSON's types, wherever its folder lies."""
        unset = set() if self.labelled else {"labelled"}
        return self.model_dump(mode="json", exclude={"root", *unset})

    @abstractmethod
    def scan(self, progress: Progress) -> Listing:
        """List the images; only `drawn` writes any.

        Raises:
            DataError: A folder cannot be listed.
        """

    def key_of(self, split: Split, what: Literal["images", "labels"]) -> str:
        """Return the key that names the folder of a split's images or labels."""
        return "root"


class FileDataset(Dataset):
    """A dataset of files that somebody else made.

    Attributes:
        remedy: What to download, and where it goes; {key} is the key that names the folder.
    """

    remedy: ClassVar[str]

    exclude: tuple[str, ...] = Field(
        default=(),
        description="Images to leave out, as paths in root without suffix, e.g. images/15188.",
    )

    def pair(
        self,
        listing: Listing,
        split: Split,
        images: str,
        labels: str | None,
        *,
        image_suffix: str = "",
        label_suffix: str = "",
        others: Iterable[str | None] = (),
    ) -> None:
        """List the images of a folder, each with the label of the same relative path and stem.

        Folders are below the root. Stems are compared without their own suffixes, whatever the
        spelling of accents (NFC or NFD) and of `.png`; images without theirs are passed over, and
        so are the folders of labels and of other splits, `others`, below that of the images.

        Raises:
            DataError: A folder cannot be listed.
        """
        root = self.folder
        remedy = self.remedy.format(key=self.key_of(split, "images"))
        if not (root / images).is_dir():
            listing.problems.append(f"{root / images}: there is no such folder: {remedy}")
            return
        found, passed = files_under(root, images)
        apart = tuple(
            f"{folder}/"
            for folder in (labels, *others)
            if folder not in (None, images) and PurePosixPath(folder).is_relative_to(images)
        )
        among = label_suffix if labels == images else ""
        found = [
            file
            for file in found
            if not file.startswith(apart) and not (among and _stem(file).endswith(among))
        ]
        chosen = [file for file in found if _stem(file).endswith(image_suffix)]
        passed = sorted({*passed, *found} - {*chosen})
        named = f" named *{image_suffix}.*" if image_suffix else ""
        if not chosen:
            listing.problems.append(f"{root / images}: holds no images{named}: {remedy}")
            return
        if passed:
            what = "entries that are not images" if passed[1:] else "entry that is not an image"
            listing.findings.append(
                f"{images}: passed over {len(passed)} {what}{named}: {first_names(passed)}"
            )
        if labels is None:
            listing.items += (Item(split, image, None) for image in chosen)
            return
        stored = _labels_under(root, labels)
        keys = [pairing_key(image, images, image_suffix) for image in chosen]
        prefix, ending = "" if labels == "." else f"{labels}/", _nfc(label_suffix)
        listing.items += (
            Item(split, image, stored.get(key + ending, f"{prefix}{key}{label_suffix}.png"))
            for key, image in zip(keys, chosen, strict=True)
        )
        known = set(keys)
        strays = sorted(
            file
            for stem, file in stored.items()
            if labels != images
            and stem.endswith(ending)
            # other code's copies of a label, `<image>_else.png`, have the image
            and known.isdisjoint(
                (stem.removesuffix(ending), *accumulate(stem.split("_"), "{}_{}".format))
            )
        )
        if strays:
            listing.findings.append(
                f"{labels}: {len(strays)} labels without an image in {images}: "
                f"{first_names(strays)}; is the dataset complete?"
            )


def files_under(root: Path, folder: str) -> tuple[list[str], list[str]]:
    """Walk through a folder and its subfolders.

    Hidden files, thumbnails of file servers and whatever else is not named like an image, or is not
    a regular file, is passed over; nothing is opened.

    Returns:
        The files, sorted, and what was passed over, folders with `/` at their end; paths are
        relative to the root.

    Raises:
        DataError: A folder cannot be listed.
    """
    found: list[str] = []
    passed: list[str] = []
    for here, folders, files in os.walk(root / folder, onerror=_refuse, followlinks=True):
        below = os.path.relpath(here, root)
        prefix = "" if below == "." else f"{below}/"
        left = {name for name in folders if _is_leftover(Path(here, name))}
        folders[:] = [name for name in folders if name not in left]
        passed += (f"{prefix}{name}/" for name in left)
        for name in files:
            named = name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
            wanted = named and Path(here, name).is_file()
            (found if wanted else passed).append(prefix + name)
    return sorted(found), sorted(passed)


def _refuse(error: OSError) -> None:
    raise DataError(
        f"{error.filename}: cannot be listed ({error.strerror}): correct its permissions"
    ) from error


def _is_leftover(folder: Path) -> bool:
    """Tell a folder that is hidden or of another program, or a link to one that it lies in."""
    if folder.name.startswith(".") or folder.name.lower() in _LEFTOVERS:
        return True
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def first_names(files: Sequence[str]) -> str:
    """Write the names of the first files of a list, without their folders."""
    names = [
        PurePosixPath(file).name + ("/" if file.endswith("/") else "") for file in files[:_MOST]
    ]
    more = ", ..." if len(files) > _MOST else ""
    return ", ".join(name if name.isprintable() else ascii(name)[1:-1] for name in names) + more


def _labels_under(root: Path, folder: str) -> dict[str, str]:
    """Map the stems of all files named like labels, below their folder, to their paths."""
    if not (root / folder).is_dir():
        return {}
    files, _ = files_under(root, folder)
    rank = {suffix: place for place, suffix in enumerate(IMAGE_SUFFIXES)}
    files.sort(key=lambda file: rank[PurePosixPath(file).suffix.lower()], reverse=True)
    return {pairing_key(file, folder, ""): file for file in files}


def _stem(path: str) -> str:
    return path.rpartition(".")[0]


def pairing_key(path: str, folder: str, suffix: str) -> str:
    """Return what pairs an image and its label: the path below their folders, in NFC."""
    below = path if folder == "." else path.removeprefix(f"{folder}/")
    return _nfc(_stem(below).removesuffix(suffix))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
