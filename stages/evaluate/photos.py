"""The images that somebody wants predicted, and names for what is made of them."""

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stages.prepare.datasets.listing import IMAGE_SUFFIXES, files_under
from store.errors import ConfigError, DataError
from store.files import local_path


@dataclass(frozen=True, slots=True)
class Photo:
    """An image to predict.

    Attributes:
        path: The file.
        name: A relative POSIX path without suffix, unique among the images of a call.
    """

    path: Path
    name: str


def list_photos(wanted: Sequence[str], *, out: Path) -> tuple[tuple[Photo, ...], int]:
    """Find images and name them.

    A name is the path below the folder that was given, or below the fixed part of a glob; a file
    has its own name. Where two images would share one, all are named from the folder that they
    have in common; where two still differ in their suffix only, all keep it.

    Args:
        wanted: Files, folders (with their subfolders; hidden files are passed over) and globs.
        out: Where the predictions go, outside the folders of images.

    Returns:
        The images, each once, in the order given and sorted within a folder; and how many files
        of the folders are not named like images.

    Raises:
        ConfigError: `out` lies in a folder of images: the next call would predict predictions.
        DataError: Something named is missing, or there is no image.
    """
    found: dict[Path, Photo] = {}
    others = 0
    target = out.resolve()
    for text in wanted:
        listed, passed = _list(text)
        others += passed
        for path, name in listed:
            resolved = path.resolve()
            if resolved.is_relative_to(target):
                raise ConfigError(f"{path} lies in --out {out}; give a folder outside the images")
            found.setdefault(resolved, Photo(path, name))
        place = local_path(text)
        if place.is_dir() and target.is_relative_to(place.resolve()):
            raise ConfigError(f"--out {out} lies in {text}; give a folder outside the images")
    if not found:
        raise DataError(
            f"{', '.join(wanted) or 'nothing'}: there are no images; give files, folders or globs"
        )
    return tuple(_unique_names(found)), others


def _list(text: str) -> tuple[list[tuple[Path, str]], int]:
    """List what one argument stands for: files with their relative paths, and other files."""
    place = local_path(text)
    if place.is_file():
        return [(place, place.name)], 0
    if place.is_dir():
        images, passed = files_under(place, ".", IMAGE_SUFFIXES)
        return [(place / file, file) for file in images], len(passed)
    if glob.has_magic(text):
        root = _fixed_part(place)
        # unlike Path.glob, this one passes over hidden files, as shells do
        paths = glob.glob(str(place), recursive=True)  # noqa: PTH207
        matches = sorted(Path(path) for path in paths)
        files = [match.relative_to(root).as_posix() for match in matches if match.is_file()]
        if not files:
            raise DataError(f"{text}: no file matches; correct the pattern")
        return [(root / file, file) for file in files], 0
    raise DataError(f"{text}: there is no such file or folder; correct the path")


def _fixed_part(pattern: Path) -> Path:
    """Return the folders in front of the first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _unique_names(found: Mapping[Path, Photo]) -> list[Photo]:
    photos = list(found.values())
    if _repeats(photo.name for photo in photos):
        common = Path(os.path.commonpath([path.parent for path in found]))
        photos = [
            Photo(photo.path, path.relative_to(common).as_posix()) for path, photo in found.items()
        ]
    stems = [PurePosixPath(photo.name).with_suffix("").as_posix() for photo in photos]
    if _repeats(stems):
        return photos
    return [Photo(photo.path, stem) for photo, stem in zip(photos, stems, strict=True)]


def _repeats(names: Iterable[str]) -> bool:
    lower = [name.lower() for name in names]  # some file systems take A.png and a.png for one
    return len(set(lower)) < len(lower)
