"""Predict images of any folder: label PNGs, colours and overlays.

Legend: B batch, H W pixels of the file.
"""

import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from stages.device import pick_device
from stages.evaluate.model import Model, open_model
from stages.evaluate.pictures import colorize, png_of
from stages.fields import DeviceName
from stages.prepare.datasets.dataset import IMAGE_SUFFIXES, files_under
from stages.prepare.geometry import WORKING_MULTIPLE_PX, fit_size, working_size
from stages.prepare.labels import ClassTable
from stages.prepare.pixels import normalised_window, read_image, resize_image
from stages.student.inference import predict
from stages.student.student import Student
from store.atomic import write_bytes
from store.errors import ConfigError, DataError
from store.files import local_path

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class PredictResult:
    """What was predicted."""

    names: tuple[str, ...]  # of the PNGs in all three folders
    others: int  # files of the folders given that are not named like images
    fit_px: tuple[int, int] | None  # that images were scaled to fit in; None is their own size


def run(
    *,
    model: Path,
    images: Sequence[str],
    out: Path,
    fit_px: tuple[int, int] | Literal["model"] | None,
    window_px: int | None,
    batch: int,
    device: DeviceName,
    progress: Progress,
) -> PredictResult:
    """Predict images at their own size, as evaluation does, and write three PNGs of each.

    `labels` are paletted class ids, `colors` the same in RGB, `overlays` half image, half colours.
    A student with SeMask has `maps` too, what each of its stages takes for which class.
    Images are read upright as their EXIF orientation says, and so are the PNGs. Only a batch of
    them is in memory at a time; every file is replaced atomically.

    Args:
        model: Folder of a student, or of a run that has one.
        images: See `list_photos`.
        out: Folder for the PNGs.
        fit_px: Width and height that images are scaled to fit in; `model` is as the student was
            trained, None keeps their size.
        window_px: Side of windows that slide over the scaled image, a multiple of 32; None sees
            all of it at once.
        batch: Images of one size that are predicted together.
        device: `auto` takes the GPU where there is one.
        progress: Called with images done, images in total and the name of the last one.

    Raises:
        CheckpointError: There is no student, or it does not say what its classes are.
        ConfigError: A CUDA device is asked for and there is none, or `out` lies among the images.
        DataError: There are no images, or one is damaged; batches before it were written.
        OSError: `out` cannot be written.
    """
    photos, others = list_photos(images, out=out)
    chosen = pick_device(device, "--device")
    student = open_model(model)
    student.network.to(chosen)
    fit_px = student.fit_px if fit_px == "model" else fit_px
    out.mkdir(parents=True, exist_ok=True)
    done = 0
    progress(done, len(photos), "predict")
    read = ((name, read_image(path)) for name, path in photos.items())
    for _, same_size in groupby(read, key=lambda pair: pair[1].shape):
        while samples := list(islice(same_size, batch)):
            labels, maps = _predict(
                student, [each for _, each in samples], fit_px, window_px, chosen
            )
            for row, ((name, image), ids) in enumerate(zip(samples, labels, strict=True)):
                _write(out, name, image, ids, student.classes, maps[:, row])
                done += 1
                progress(done, len(photos), name)
    return PredictResult(tuple(photos), others, fit_px)


def list_photos(wanted: Sequence[str], *, out: Path) -> tuple[dict[str, Path], int]:
    """Find images and name them.

    A name is the path below the folder that was given; other files have their own name. Where two
    images would share one, all are named from the folder that they have in common; where two still
    differ in their suffix only, all keep it. Hidden files are passed over.

    Returns:
        The files by name, each once, in the order given and sorted within a folder; and how many
        files of the folders are not named like images.

    Raises:
        ConfigError: `out` lies in a folder of images: the next call would predict predictions.
        DataError: Something named is missing, or there is no image.
    """
    found: dict[Path, tuple[Path, str]] = {}
    others = 0
    target = out.resolve()
    for text in wanted:
        place = local_path(text)
        if place.is_dir():
            if target.is_relative_to(place.resolve()):
                raise ConfigError(f"--out {out} lies in {text}; give a folder outside the images")
            images, passed = files_under(place, ".", IMAGE_SUFFIXES)
            listed = [(place / file, file) for file in images]
            others += len(passed)
        else:
            # unlike Path.glob, this one passes over hidden files, as shells do
            matches = glob.glob(str(place), recursive=True)  # noqa: PTH207
            paths = [place] if place.is_file() else sorted(map(Path, matches))
            listed = [(path, path.name) for path in paths if path.is_file()]
            if not listed:
                raise DataError(f"{text}: there is no such file or folder; correct the path")
        for path, name in listed:
            resolved = path.resolve()
            if resolved.is_relative_to(target):
                raise ConfigError(f"{path} lies in --out {out}; give a folder outside the images")
            found.setdefault(resolved, (path, name))
    if not found:
        raise DataError(
            f"{', '.join(wanted) or 'nothing'}: there are no images; give files, folders or globs"
        )
    common = Path(os.path.commonpath([path.parent for path in found]))
    names = [PurePosixPath(name).with_suffix("") for _, name in found.values()]
    full = [PurePosixPath(path.relative_to(common)) for path in found]
    for choice in (names, [name.with_suffix("") for name in full], full):
        # some file systems take A.png and a.png for one
        if len({str(name).lower() for name in choice}) == len(choice):
            names = choice
            break
    paths = [path for path, _ in found.values()]
    return dict(zip(map(str, names), paths, strict=True)), others


def _predict(
    student: Model,
    images: Sequence[NDArray[np.uint8]],
    fit_px: tuple[int, int] | None,
    window_px: int | None,
    device: torch.device,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Predict a batch of images (H, W, 3) of one size.

    Returns:
        Class ids (B, H, W), and those of SeMask's stages, if any, (stages, B, h, w), at the size
        that the student sees.
    """
    original_px = (images[0].shape[0], images[0].shape[1])
    resized_px = fit_size(original_px, fit_px)
    padded_px = working_size(resized_px, student.crop_px or WORKING_MULTIPLE_PX)
    windows = [normalised_window(resize_image(i, resized_px), 0, 0, *padded_px) for i in images]
    seen = torch.from_numpy(np.stack(windows)).to(device)  # (B, 3, h, w)
    ids: NDArray[np.uint8] = (
        predict(
            student.network,
            seen,
            resized_size_px=resized_px,
            original_size_px=original_px,
            window_px=window_px,
        )
        .cpu()
        .numpy()
    )
    return ids, _class_maps(student.network, seen)[:, :, : resized_px[0], : resized_px[1]]


@torch.inference_mode()
def _class_maps(network: nn.Module, images: Tensor) -> NDArray[np.uint8]:
    """Let SeMask's stages classify images (B, 3, h, w): class ids (stages, B, h, w)."""
    found = np.empty((0, len(images), *images.shape[2:]), np.uint8)
    if not isinstance(network, Student) or network.semantic is None:
        return found
    maps = [
        F.interpolate(map_.argmax(1, keepdim=True).float(), images.shape[2:])[:, 0]
        for map_ in network.see(images).class_maps
    ]
    return torch.stack(maps).byte().cpu().numpy()


def _write(
    out: Path,
    name: str,
    image: NDArray[np.uint8],
    ids: NDArray[np.uint8],
    classes: ClassTable,
    maps: NDArray[np.uint8],
) -> None:
    colors = colorize(ids, classes)
    mean = ((image.astype(np.uint16) + colors) // 2).astype(np.uint8)
    paletted = Image.fromarray(ids)
    paletted.putpalette([channel for color in classes.palette for channel in color])
    pictures = {
        "overlays": Image.fromarray(mean), "colors": Image.fromarray(colors), "labels": paletted
    }  # fmt: skip
    if len(maps):
        pictures["maps"] = Image.fromarray(colorize(np.hstack([*maps]), classes))
    for folder, picture in pictures.items():
        write_bytes(out / folder / f"{name}.png", png_of(picture))
