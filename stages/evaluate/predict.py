"""Predict images of any folder: label PNGs, colours and overlays.

Legend: B batch, H W pixels of the file.
"""

import glob
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from stages.device import pick_device
from stages.evaluate.config import PredictConfig
from stages.evaluate.model import Model, open_model
from stages.evaluate.pictures import colorize
from stages.prepare.datasets.dataset import IMAGE_SUFFIXES, files_under
from stages.prepare.geometry import WORKING_MULTIPLE_PX, Size, fit_size, working_size
from stages.prepare.labels import ClassTable
from stages.prepare.pixels import normalised_window, read_image, resize_image
from stages.student.inference import predict
from store.atomic import write_bytes
from store.errors import ConfigError, DataError
from store.files import local_path

LABELS, COLORS, OVERLAYS = "labels", "colors", "overlays"
"""Folders of the three kinds of pictures."""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Photo:
    """An image to predict.

    Attributes:
        path: The file.
        name: A relative POSIX path without suffix, unique among the images of a call.
    """

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class PredictResult:
    """What was predicted.

    Attributes:
        out: Folder of `labels`, `colors` and `overlays`.
        names: Of the images; each is a PNG of this name in all three folders.
        others: Files of the folders given that are not named like images.
        fit_px: Width and height that the images were scaled to fit in; None is their own size.
    """

    out: Path
    names: tuple[str, ...]
    others: int
    fit_px: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class _Sample:
    """A photo as it is (H, W, 3) and as the student saw images in training."""

    photo: Photo
    image: NDArray[np.uint8]
    resized: NDArray[np.uint8]

    @property
    def size(self) -> Size:
        height, width = self.resized.shape[:2]
        return height, width


def run(
    config: PredictConfig, *, model: Path, images: Sequence[str], out: Path, progress: Progress
) -> PredictResult:
    """Predict images at their own size, as evaluation does, and write three PNGs of each.

    `labels` are paletted class ids, `colors` the same in RGB, `overlays` half image, half colours.
    Images are read upright as their EXIF orientation says, and so are the PNGs. Only a batch of
    them is in memory at a time; every file is replaced atomically.

    Args:
        config: Scale, windows, batch and device.
        model: Folder of a student, or of a run that has one.
        images: Files, folders and globs; see `list_photos`.
        out: Folder for the PNGs.
        progress: Called with images done, images in total and the name of the last one.

    Raises:
        CheckpointError: There is no student, or it does not say what its classes are.
        ConfigError: A CUDA device is asked for and there is none, or `out` lies among the images.
        DataError: There are no images, or one is damaged; those before it were written.
        OSError: `out` cannot be written.
    """
    photos, others = list_photos(images, out=out)
    device = pick_device(config.device, "--device")
    student = open_model(model)
    student.network.to(device)
    fit_px = student.fit_px if config.fit_px == "model" else config.fit_px
    out.mkdir(parents=True, exist_ok=True)
    done = 0
    progress(done, len(photos), "predict")
    for samples in _batches(photos, fit_px, config.batch):
        for sample, ids in zip(samples, _predict(student, samples, config, device), strict=True):
            _write(out, sample, ids, student.classes)
            done += 1
            progress(done, len(photos), sample.photo.name)
    return PredictResult(out, tuple(photo.name for photo in photos), others, fit_px)


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


def _batches(
    photos: Sequence[Photo], fit_px: tuple[int, int] | None, most: int
) -> Iterator[list[_Sample]]:
    """Read images and group neighbours of one resized size; before a damaged one comes the rest."""
    batch: list[_Sample] = []
    for photo in photos:
        try:
            image = read_image(photo.path)
        except DataError:
            if batch:
                yield batch
            raise
        resized = resize_image(image, fit_size((image.shape[0], image.shape[1]), fit_px))
        sample = _Sample(photo, image, resized)
        if batch and batch[0].size != sample.size:
            yield batch
            batch = []
        batch.append(sample)
        if len(batch) == most:
            yield batch
            batch = []
    if batch:
        yield batch


def _predict(
    student: Model, samples: Sequence[_Sample], config: PredictConfig, device: torch.device
) -> Iterator[NDArray[np.uint8]]:
    """Predict a batch of one resized size; class ids (H, W) of each."""
    size = samples[0].size
    padded = working_size(size, student.crop_px or WORKING_MULTIPLE_PX)
    windows = [normalised_window(sample.resized, 0, 0, *padded) for sample in samples]
    batch = torch.from_numpy(np.stack(windows)).to(device)  # (B, 3, h, w)
    originals = {sample.image.shape[:2] for sample in samples}
    # files of different sizes can be resized to the same one: these go one by one
    parts = [batch] if len(originals) == 1 else torch.split(batch, 1)
    for part, sample in zip(parts, samples, strict=False):
        height, width = sample.image.shape[:2]
        labels = predict(
            student.network,
            part,
            resized_size_px=size,
            original_size_px=(height, width),
            window_px=config.window_px,
        )
        yield from labels.cpu().numpy()


def _write(out: Path, sample: _Sample, ids: NDArray[np.uint8], classes: ClassTable) -> None:
    colors = colorize(ids, classes)
    mean = (sample.image.astype(np.uint16) + colors) // 2
    paletted = Image.fromarray(ids)
    paletted.putpalette([channel for color in classes.palette for channel in color])
    for folder, picture in (
        (OVERLAYS, Image.fromarray(mean.astype(np.uint8))),
        (COLORS, Image.fromarray(colors)),
        (LABELS, paletted),
    ):
        png = io.BytesIO()
        picture.save(png, "PNG")
        write_bytes(out / folder / f"{sample.photo.name}.png", png.getvalue())
