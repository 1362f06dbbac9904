"""Stage two: train the student from the manifest and the feature stores; SAM is never loaded."""

import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from stages.device import pick_device
from stages.prepare.manifest import Domain, Manifest
from stages.train.checkpoint import TrainingState
from stages.train.config import StudentConfig, TrainConfig
from stages.train.dataset import TrainingCrops
from stages.train.fit import FitResult, Progress, fit
from stages.train.model.backbone import BACKBONES
from stages.train.model.regularizer import Regularizer
from stages.train.model.saved import load_student, save_student
from stages.train.model.student import Student, build_student, seeded
from stages.train.optimizer import build_optimizer
from stages.train.step import ImageNetReference, Models, without_noise
from stages.train.tracking import Curves
from store.errors import CheckpointError, ConfigError
from store.fingerprint import fingerprint_of
from store.index import Index, StoreEntry
from store.read import FeatureReader, open_features
from store.url import Url

TRAINING_VERSION = 1
"""Raise it when a change of this package changes the weights that equal parameters lead to."""

# What a checkpoint may be resumed with although it differs: it changes no weight.
_INCIDENTAL = {"device", "workers", "checkpoint_every"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What training left behind.

    Attributes:
        student: Folder that `load_student` reads.
        fit: How the run went.
        teacher_trained: False for an UNTRAINED TEACHER, None where no features were read.
        notes: What the parameters asked for and the run did without.
    """

    student: Path
    fit: FitResult
    teacher_trained: bool | None
    notes: tuple[str, ...]


def run(
    config: TrainConfig,
    *,
    manifest_path: Path,
    roots: Mapping[Domain, Path],
    store_url: Url,
    index_path: Path,
    out: Path,
    progress: Progress,
) -> TrainResult:
    """Train, or go on where an interrupted run with the same inputs was.

    Args:
        config: Section `train`.
        manifest_path: The manifest.
        roots: Folder of each domain.
        store_url: Folder of the feature stores.
        index_path: The index that names the current ones; unread where the regulariser is off.
        out: Receives `checkpoint.pt`, `curves.csv` and the folder `student`.
        progress: Called after every iteration.

    Raises:
        ConfigError: If parameters do not fit the data.
        DataError: If manifest or images are missing or damaged.
        StoreError: If the stores lack what training reads, or hold another teacher's features.
        CheckpointError: If weights to start from are missing, damaged or of another architecture.
        TrainingError: If a loss is not finite.
    """
    device = pick_device(config.device, "train.device")
    manifest = Manifest.read(manifest_path)
    stores, readers = _open(config, index_path, manifest, store_url)
    crops = TrainingCrops(config=config, manifest=manifest, roots=roots, readers=readers)
    models, notes = _build_models(config, manifest, stores)
    for module in (models.student, models.ema, models.regularizer):
        if module is not None:
            module.to(device)
    if models.imagenet is not None:
        models.imagenet.backbone.to(device)
    for note in notes:
        log.warning(note)
    optimizer = build_optimizer(models.student, models.regularizer, config.optimizer)

    out.mkdir(parents=True, exist_ok=True)
    result = fit(
        config,
        TrainingState(models, optimizer, Curves()),
        crops,
        device=device,
        folder=out,
        fingerprint=_fingerprint(config, manifest_path, stores),
        progress=progress,
    )
    trained = _teacher_trained(stores)
    save_student(
        models.student,
        out / "student",
        config=config.student,
        meta={
            "classes": list(manifest.classes.names),
            "palette": [list(color) for color in manifest.classes.palette],
            "teacher_trained": trained,
        },
    )
    return TrainResult(out / "student", result, trained, notes)


def _open(
    config: TrainConfig, index_path: Path, manifest: Manifest, url: Url
) -> tuple[dict[Domain, StoreEntry], dict[Domain, FeatureReader]]:
    """Open the stores that training reads, if any; demand every level of every training image."""
    parts = config.regularizer.on
    if not parts:
        return {}, {}
    domains: tuple[Domain, ...] = ("source", "target") if "mixed" in parts else ("source",)
    index = Index.read(index_path)
    readers = {
        domain: open_features(
            url,
            index,
            domain,
            levels=config.regularizer.used_levels,
            images={
                record.image_id: record.content
                for record in manifest.select(domain=domain, split="train")
            },
        )
        for domain in domains
    }
    return {domain: index.stores[domain] for domain in domains}, readers


def _build_models(
    config: TrainConfig, manifest: Manifest, stores: Mapping[Domain, StoreEntry]
) -> tuple[Models, tuple[str, ...]]:
    num_classes = len(manifest.classes)
    student = build_student(config.student, num_classes=num_classes, seed=config.seed)
    imagenet, notes = _imagenet(config, manifest, student)
    if config.init is not None:
        _start_from(student, Path(config.init), config.student, num_classes)
    regularizer = None
    if stores:
        channels = {_teacher(entry)["channels"] for entry in stores.values()}
        if len(channels) > 1:
            raise ConfigError(
                "the stores of source and target are of two teachers; run `ssr embed`"
            )
        with seeded(config.seed):
            regularizer = Regularizer(
                student.channels,
                channels.pop(),
                BACKBONES[config.student.backbone].heads,
                config.regularizer.levels,
            )
    ema = without_noise(deepcopy(student)) if config.self_training else None
    return Models(student, ema, regularizer, imagenet), notes


def _imagenet(
    config: TrainConfig, manifest: Manifest, student: Student
) -> tuple[ImageNetReference | None, tuple[str, ...]]:
    """Keep the pretrained backbone for feature distance, if it is pretrained."""
    if config.feature_distance is None:
        return None, ()
    if config.student.weights == "random":
        return None, ("feature distance is off: train.student.weights is random, not ImageNet's",)
    names = manifest.classes.names
    unknown = [name for name in config.feature_distance.classes if name not in names]
    if unknown:
        raise ConfigError(
            f"train.feature_distance.classes: {', '.join(unknown)} is no class of this data set; "
            f"its classes are {', '.join(names)}"
        )
    classes = [names.index(name) for name in config.feature_distance.classes]
    backbone = deepcopy(student.backbone).eval().requires_grad_(False)
    return ImageNetReference(backbone, classes), ()


def _start_from(student: Student, folder: Path, config: StudentConfig, num_classes: int) -> None:
    """Copy the weights of an earlier student, for instance one trained on the source only."""
    start, _ = load_student(folder)
    if start.num_classes != num_classes:
        raise CheckpointError(
            f"train.init: {folder} has {start.num_classes} classes, the manifest {num_classes}; "
            "choose a student of the same classes"
        )
    try:
        student.load_state_dict(start.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"train.init: {folder} is another architecture than train.student "
            f"({config.backbone}, {config.head}, {config.head_channels} channels); make them equal"
        ) from error


def _fingerprint(
    config: TrainConfig, manifest_path: Path, stores: Mapping[Domain, StoreEntry]
) -> str:
    """Hash all that determines the weights, so that a checkpoint resumes only its own run."""
    weights = [Path(name) for name in (config.student.weights, config.init) if name]
    files = [file for path in weights for file in ([path] if path.is_file() else path.glob("*"))]
    inputs: dict[str, Any] = {
        "version": TRAINING_VERSION,
        "config": config.model_dump(mode="json", exclude=_INCIDENTAL),
        "manifest": _digest(manifest_path),
        "features": [
            entry.levels[level].model_dump(mode="json")
            for entry in stores.values()
            for level in config.regularizer.used_levels
        ],
        "weights": sorted(_digest(file) for file in files if file.is_file()),
    }
    return fingerprint_of(inputs)


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _teacher_trained(stores: Mapping[Domain, StoreEntry]) -> bool | None:
    return all(_teacher(entry)["trained"] for entry in stores.values()) if stores else None


def _teacher(entry: StoreEntry) -> dict[str, Any]:
    """Return what `stages.embed` recorded of the teacher."""
    teacher = entry.provenance["teacher"]
    assert isinstance(teacher, dict)
    return teacher
