"""A student at work: opened from its folder or its run, it predicts images of any folder.

Legend: B batch, H W pixels of the file.
"""

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stages.device import pick_device
from stages.evaluate.config import Weights
from stages.evaluate.pictures import colorize, png_of
from stages.evaluate.scores import Evaluation
from stages.fields import DeviceName
from stages.prepare.datasets.dataset import files_under
from stages.prepare.geometry import WORKING_MULTIPLE_PX, fit_size, working_size
from stages.prepare.labels import ClassTable
from stages.prepare.pixels import read_image
from stages.student.config import ONCE
from stages.student.inference import pixels_of, predict_images
from stages.student.saved import Card, read_card
from stages.student.student import Student, open_student
from store.atomic import write_bytes
from store.errors import CheckpointError, ConfigError, DataError
from store.files import local_path

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Model:
    """A student in eval mode on the CPU."""

    folder: Path
    network: Student  # (B, 3, H, W) normalised RGB to logits (B, K, H/4, W/4)
    card: Card
    classes: ClassTable  # in the order of the logits

    @property
    def fit_px(self) -> tuple[int, int] | None:
        """Width and height that images of its domain were scaled to fit in; None keeps their size.

        Its domain is the target where its run had one, even unused.
        """
        data: Mapping[str, Any] = self.card.meta.get("data", {})
        fit_px = data.get("target" if "target" in data else "source", {}).get("fit_px")
        return None if fit_px is None else (fit_px[0], fit_px[1])

    @property
    def crop_px(self) -> int | None:
        """Side of its training crops, None where it does not say."""
        crop_px: int | None = self.card.meta.get("recipe", {}).get("crop_px")
        return crop_px


class PredictResult(NamedTuple):
    """What was predicted."""

    names: tuple[str, ...]  # of the PNGs in all three folders
    others: int  # files of the folders given that are not named like images
    fit_px: tuple[int, int] | None  # that images were scaled to fit in; None is their own size


def open_model(folder: Path) -> Model:
    """Open a student that was trained, imported or exported, from its folder or its run's.

    Raises:
        CheckpointError: There is no student, or it does not say what its classes are.
    """
    folder = student_folder(folder, "student")
    network, card = open_student(folder)
    names, palette = card.meta.get("classes"), card.meta.get("palette")
    if names is None or palette is None or not len(names) == len(palette) == card.num_classes:
        raise CheckpointError(
            f"{folder}/config.json names no classes and colours for the {card.num_classes} logits; "
            "train the student again"
        )
    classes = ClassTable(tuple(names), tuple((r, g, b) for r, g, b in palette))
    return Model(folder, network, card, classes)


def student_folder(folder: Path, weights: Weights) -> Path:
    """Find the student in the folder of a run; a student's own folder is itself.

    Raises:
        CheckpointError: There is no such folder, or no averaged model of the same run in it.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: there is no such folder; give one that `ssr train`, `ssr import` or "
            "`ssr export` wrote"
        )
    if (folder / "config.json").is_file():
        return folder
    student, found = folder / "student", folder / weights
    if weights == "student":
        return student if student.is_dir() else folder
    if not found.is_dir():
        raise CheckpointError(
            f"{folder}: holds no averaged model; training with train.self_training writes one to "
            f"{found} when it ends"
        )
    if student.is_dir() and read_card(student).meta.get("run") != read_card(found).meta.get("run"):
        raise CheckpointError(
            f"{found} is not of the run that made {student}; train again, or give the one you mean "
            "by --model"
        )
    return found


def measured_card(run: Path, scores: Evaluation) -> Card | None:
    """Return the card of the student that an evaluation is of; None if the run has another now.

    Raises:
        CheckpointError: There is no student in the run's folder.
    """
    card = read_card(student_folder(run, "ema" if scores.weights == "ema" else "student"))
    return card if card.weights_sha256.startswith(scores.student) else None


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
    images of one size is in memory at a time; every file is replaced atomically.

    `model` is the folder of a student, or of a run that has one; for `images` see `list_photos`.
    They are scaled to fit in `fit_px`, width and height; `model` is as the student was trained,
    None keeps their size. Windows of `window_px` slide over the scaled image; None sees all of it
    at once. `progress` is called with images done, images in total and the name of the last one.

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
            names, pixels = zip(*samples, strict=True)
            labels, maps = _predict(student, pixels, fit_px, window_px, chosen)
            for row, name in enumerate(names):
                _write(out, name, pixels[row], labels[row], student.classes, maps[:, row])
                done += 1
                progress(done, len(photos), name)
    return PredictResult(tuple(photos), others, fit_px)


def list_photos(wanted: Sequence[str], *, out: Path) -> tuple[dict[str, Path], int]:
    """Find images and name them; also count the files of folders that are not named like images.

    A name is the path below the folder that was given; other files have their own name. Where two
    images would share one, all are named from the folder that they have in common; where two still
    differ in their suffix only, all keep it. Hidden files are passed over. Each file is listed
    once, in the order given and sorted within a folder.

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
            images, passed = files_under(place, ".")
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
    how = ONCE.model_copy(update={"window_px": window_px})
    network = student.network
    sizes = resized_px, padded_px, original_px
    ids = predict_images(network, images, *sizes, device=device, how=how)
    maps = np.empty((0, len(images), *padded_px), np.uint8)
    if network.semantic is not None:
        maps = _class_maps(network, pixels_of(images, resized_px, padded_px, device=device))
    return ids, maps[:, :, : resized_px[0], : resized_px[1]]


@torch.inference_mode()
def _class_maps(network: Student, pixels: Tensor) -> NDArray[np.uint8]:
    """Let SeMask's stages classify images (B, 3, h, w): class ids (stages, B, h, w)."""
    maps = [
        F.interpolate(map_.argmax(1, keepdim=True).float(), pixels.shape[2:])[:, 0]
        for map_ in network.see(pixels).class_maps
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
