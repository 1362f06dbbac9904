"""Stage two: train the student from the manifest and the feature stores; SAM is never loaded."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.device import cpu_threads, float32_on_gpu
from stages.prepare.manifest import Domain, Manifest
from stages.prepare.restyled import Restyled
from stages.student.saved import describe_classes, save_student
from stages.student.student import Student
from stages.train.config import TrainConfig
from stages.train.crops import TrainingCrops
from stages.train.loop import Progress, fit
from stages.train.models import build_models, teacher_of
from stages.train.monitor import Curves, rows_for
from stages.train.prefix import open_prefixes
from stages.train.ranks import ALONE, Ranks
from stages.train.state import TrainingState, build_optimizer
from stages.train.step import STORED, Feed
from stages.train.validate import Validation
from stages.train.workspace import (
    INCIDENTAL,
    STUDENTS,
    TRAINING_VERSION,
    Workspace,
    claim,
    digests_of_start,
)
from store.errors import (
    ConfigError,
    StoreError,
    StoreIncompleteError,
    StoreMismatchError,
    StoreUnreadableError,
)
from store.fingerprint import fingerprint_of, sha256_of_file
from store.index import Index, StoreEntry
from store.lease import writer_lock
from store.read import FeatureReader, open_features


@dataclass(frozen=True)
class TrainResult:
    """What training left behind."""

    student: Path  # folder that `load_student` reads
    resumed_from: int | None  # iterations that an earlier process had done; None if there was none
    seconds: float  # of this process
    curves: Curves
    teacher_trained: bool | None  # False: UNTRAINED, here or at the start; None: no features read


def run(
    config: TrainConfig,
    *,
    workspace: Workspace,
    out: Path,
    progress: Progress,
    validation: Validation | None = None,
    fresh: bool = False,
    move_aside: bool = False,
    feed: Feed = STORED,
    ranks: Ranks = ALONE,
) -> TrainResult:
    """Train, or go on where an interrupted run with the same inputs was.

    The best student by validation is kept in the folder `best`, the last one in `student`, the
    averaged one of self-training in `ema`. All ranks see `out`, the first one writes. `claim` says
    what `fresh` and `move_aside` do to another run there.

    Raises:
        ConfigError: If parameters do not fit the data, `out` holds another run, or a tool of
            `train.log_to` is not installed.
        DataError: If manifest or images are missing or damaged.
        StoreError: If the stores lack what training reads, or hold another teacher's features; or
            if another process trains in this folder.
        CheckpointError: If weights to start from are missing, damaged or of another architecture,
            or the checkpoint cannot be read.
        TrainingError: If a loss is not finite, or another rank is gone.
    """
    ranks.rows(config.batch_size)  # refuses a batch that they cannot share
    if config.init and Path(config.init).expanduser().resolve() in [
        (out / name).resolve() for name in STUDENTS
    ]:
        raise ConfigError(
            f"train.init is {config.init}, which this run overwrites; train with another --out, or "
            "copy the folder and start from the copy"
        )
    device = ranks.device(config.device)
    if config.sync_batch_norm and ranks.count > 1 and device.type == "cpu":
        raise ConfigError(
            "train.sync_batch_norm needs GPUs: PyTorch's layer refuses the CPU; set it to false"
        )
    show_rows = rows_for(config.log_to if ranks.first else (), out)
    manifest = Manifest.read(workspace.manifest)
    stores, readers = open_stores(config, workspace, manifest)
    labels, label_reader = open_labels(config, workspace, manifest)
    restyled = None
    if config.restyled is not None:
        restyled = Restyled.read(workspace.restyled, of=workspace.manifest)
    crops = TrainingCrops(
        config=config,
        manifest=manifest,
        roots=workspace.roots,
        readers=readers,
        labels=label_reader,
        restyled=restyled,
        prefixes=open_prefixes(config, workspace.stores, manifest),
    )
    models, origin = build_models(config, manifest, readers, ranks)
    models.set_up(config, device)
    optimizer = build_optimizer(
        models.student, models.regularizer, config.optimizer, models.distiller
    )

    out.mkdir(parents=True, exist_ok=True)
    read = [*readers.values(), *([label_reader] if label_reader else [])]
    teachers = [
        *(teacher_of(reader.header.spec) for reader in read),
        {"trained": origin.get("teacher_trained"), "licence": origin.get("teacher_licence")},
    ]
    known = {teacher["trained"] for teacher in teachers}
    trained = None if known == {None} else False not in known
    identity = _identity(config, workspace, stores, labels, feed)
    fingerprint = fingerprint_of(identity)
    recipe = _described(config)
    recipe["init"] = _without_folder(config.init)
    recipe["student"]["weights"] = _without_folder(config.student.weights)
    meta = {
        **describe_classes(manifest.classes),
        "teacher_trained": trained,
        "weights": _without_folder(origin.get("weights")),
        "data": {domain: _describe_data(manifest, domain) for domain in manifest.labels},
        "recipe": recipe,
        "run": fingerprint[:12],
    }
    if licences := {str(of["licence"]) for of in teachers if of.get("licence")}:
        meta["teacher_licence"] = ", ".join(sorted(licences))

    def save(student: Student, name: str, **more: Any) -> None:  # noqa: ANN401 - what JSON holds
        save_student(student, out / name, config=config.student, meta={**meta, **more})

    def keep_best(iteration: int, miou: float, by: Validation) -> None:
        chosen = {"iteration": iteration, "miou": miou, "on": by.on}
        save(models.student, "best", chosen={**chosen, "by_target_labels": by.sees_target_labels})

    # `kill -9` of `dvc repro` leaves its child running: two of them must not share a checkpoint.
    curves, started = Curves(), time.perf_counter()
    lock = writer_lock(out, f"the run in {out}") if ranks.first else nullcontext()
    with lock, cpu_threads(config.threads), float32_on_gpu(config.matmul):
        if ranks.first:
            claim(out, identity, fresh=fresh, move_aside=move_aside)
        resumed_from = fit(
            config,
            TrainingState(models, optimizer, curves),
            feed.samples(crops),
            device=device,
            folder=out,
            fingerprint=fingerprint,
            progress=progress,
            show_rows=show_rows,
            keep_best=keep_best,
            validation=validation,
            mixer=feed.mixer,
            ranks=ranks,
            classes=manifest.classes.names,
        )
        if ranks.first:
            followed = config.self_training and config.self_training.start < config.iterations
            if models.ema is not None and followed:  # before that it is random
                save(models.ema, "ema", network="ema")
            save(models.student, "student")
        ranks.require_equal("done", "what is done")  # nobody leaves before the student is there
    seconds = time.perf_counter() - started
    return TrainResult(out / "student", resumed_from, seconds, curves, trained)


def _described(config: TrainConfig) -> dict[str, Any]:
    """Dump what decides about weights; what is off and younger is not there, as in older runs."""
    off = {key for key in ("distill", "restyled") if getattr(config, key) is None}
    if config.validate_on == "target":
        off.add("validate_on")
    return config.model_dump(mode="json", exclude=INCIDENTAL | off)


def open_stores(
    config: TrainConfig, workspace: Workspace, manifest: Manifest
) -> tuple[dict[Domain, StoreEntry], dict[Domain, FeatureReader]]:
    """Open the stores that training reads, with all training images."""
    domains = config.read_domains
    if not domains:
        return {}, {}
    target = manifest.select(domain="target", split="train")
    if any(record.label is not None for record in target):
        domains = (*dict.fromkeys(("source", "target", *domains)),)
    if "restyled" in domains:
        manifest = Restyled.read(workspace.restyled, of=workspace.manifest).beside(manifest)
    index = Index.read(workspace.index)
    readers = {
        domain: open_features(
            workspace.stores,
            index,
            domain,
            levels=config.used_levels,
            images={
                record.image_id: record.content
                for record in manifest.select(domain=domain, split="train")
            },
        )
        for domain in domains
    }
    return {domain: index.stores[domain] for domain in domains}, readers


def open_labels(
    config: TrainConfig, workspace: Workspace, manifest: Manifest
) -> tuple[StoreEntry | None, FeatureReader | None]:
    """Open the labels of the target's training images, where self-training asks for them.

    Raises:
        StoreError: There are none, or they are of other images or classes.
    """
    if not config.reads_labels:
        return None, None
    target = manifest.select(domain="target", split="train")
    images = {record.image_id: record.content for record in target}
    try:
        index = Index.read(workspace.labels)
        entry = index.stores.get("target")
        levels = () if entry is None else entry.levels
        reader = open_features(workspace.stores, index, "target", levels=levels, images=images)
        if entry is None or entry.provenance.get("classes") != list(manifest.classes.names):
            raise StoreMismatchError("they are of other classes")
    except StoreUnreadableError:
        raise
    except StoreError as error:
        raise StoreIncompleteError(
            f"{workspace.labels}: has no labels of these target images ({error}): run `ssr label`"
        ) from error
    return entry, reader


def _identity(
    config: TrainConfig,
    workspace: Workspace,
    stores: Mapping[Domain, StoreEntry],
    labels: StoreEntry | None,
    feed: Feed,
) -> dict[str, Any]:
    """Collect all that determines the weights and the best of them, so that only it goes on."""
    on_proxy = config.validate_on == "proxy" and config.validate_every > 0
    shows_restyled = config.restyled is not None or on_proxy
    return {
        "version": TRAINING_VERSION,
        "train": _described(config),
        "manifest": sha256_of_file(workspace.manifest),
        "features": [
            entry.levels[level].model_dump(mode="json")
            for entry in stores.values()
            for level in entry.with_flips(config.used_levels)
        ],
        "labels": labels and {n: e.model_dump(mode="json") for n, e in labels.levels.items()},
        "feed": feed.name,
        "start": digests_of_start(config),
        **({"restyled": sha256_of_file(workspace.restyled)} if shows_restyled else {}),
    }


def _describe_data(manifest: Manifest, domain: Domain) -> dict[str, Any]:
    source, train = manifest.sources.get(domain, {}), manifest.select(domain=domain, split="train")
    labelled = sum(record.label is not None for record in train) if domain == "target" else 0
    return {
        "train_images": len(train),
        **({"labelled": labelled} if labelled else {}),
        **{key: source[key] for key in ("fit_px", "kind") if key in source},
    }


def _without_folder(weights: str | None) -> str | None:
    """Shorten an absolute path to its name: folders of this machine are nobody else's business."""
    if weights is None or not (weights.startswith("~") or Path(weights).is_absolute()):
        return weights
    return Path(weights).name
