"""Stage two: train the student from the manifest and the feature stores; SAM is never loaded."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.device import cpu_threads
from stages.prepare.config import SourceConfig
from stages.prepare.manifest import Domain, Manifest
from stages.student.saved import save_student
from stages.train.build import build_models, teacher_of
from stages.train.checkpoint import TrainingState
from stages.train.config import TrainConfig
from stages.train.crops import TrainingCrops
from stages.train.feed import STORED, Feed
from stages.train.folder import STUDENTS, claim
from stages.train.loop import FitResult, Progress, ShowRows, Watching, fit
from stages.train.networks import Models
from stages.train.optimizer import build_optimizer
from stages.train.provenance import INCIDENTAL, TRAINING_VERSION, describe_student
from stages.train.ranks import ALONE, Ranks
from stages.train.start import digests_of_start
from stages.train.tracking import Curves
from stages.train.validation import Validation
from store.errors import ConfigError
from store.files import Url
from store.fingerprint import fingerprint_of, sha256_of_file
from store.index import Index, StoreEntry
from store.lease import writer_lock
from store.read import FeatureReader, open_features

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
    sources: Mapping[Domain, SourceConfig] | None = None,
    validation: Validation | None = None,
    show_rows: ShowRows = lambda curves: None,
    fresh: bool = False,
    move_aside: bool = False,
    feed: Feed = STORED,
    ranks: Ranks = ALONE,
) -> TrainResult:
    """Train, or go on where an interrupted run with the same inputs was.

    The best student by validation is kept in the folder `best`, the last one in `student`, the
    averaged one of self-training in `ema`.

    Args:
        config: Section `train`.
        manifest_path: The manifest.
        roots: Folder of each domain.
        store_url: Folder of the feature stores.
        index_path: The index that names the current ones; unread where the regulariser is off.
        out: Receives `run.json`, `checkpoint.pt`, `curves.csv`, `health.csv`, `validation.csv` and
            the folders `student`, `ema` and `best`. It belongs to one run; see `folder.claim`.
        progress: Called after every iteration.
        sources: The datasets behind the manifest, to be noted beside the student; training itself
            reads none of it.
        validation: What `train.validate_every` measures.
        show_rows: Called when there are new rows of curves, health or validation.
        fresh: Start over; the run that is in `out` is moved to a folder in it.
        move_aside: Do so where it is another run, which is a mistake otherwise.
        feed: Where the teacher's features come from.
        ranks: This process among those that share the run. The first one writes; `out` is a folder
            that all of them see.

    Raises:
        ConfigError: If parameters do not fit the data, or `out` holds another run.
        DataError: If manifest or images are missing or damaged.
        StoreError: If the stores lack what training reads, or hold another teacher's features; or
            if another process trains in this folder.
        CheckpointError: If weights to start from are missing, damaged or of another architecture,
            or the checkpoint cannot be read.
        TrainingError: If a loss is not finite, or another rank is gone.
    """
    ranks.rows(config.batch_size)  # refuses a batch that they cannot share
    _demand_other_start(config.init, out)
    device = ranks.device(config.device)
    if config.sync_batch_norm and ranks.count > 1 and device.type == "cpu":
        raise ConfigError(
            "train.sync_batch_norm needs GPUs: PyTorch's layer refuses the CPU; set it to false"
        )
    manifest = Manifest.read(manifest_path)
    stores, readers = _open(config, index_path, manifest, store_url)
    skipped = {i: reason for entry in stores.values() for i, reason in entry.skipped.items()}
    manifest = manifest.without(skipped)
    crops = TrainingCrops(config=config, manifest=manifest, roots=roots, readers=readers)
    models, notes, weights = build_models(config, manifest, stores, ranks)
    models.settle(config, device)
    if skipped:
        first, reason = next(iter(skipped.items()))
        why = f"{len(skipped)} images have no features and are not trained on, first {first}"
        notes = (*notes, f"{why}: {reason}")
    if ranks.first:
        for note in notes:
            log.warning(note)
    optimizer = build_optimizer(models.student, models.regularizer, config.optimizer)

    out.mkdir(parents=True, exist_ok=True)
    trained = _teacher_trained(stores)
    identity = _identity(config, manifest_path, stores, feed)
    fingerprint = fingerprint_of(identity)
    meta = describe_student(
        config, manifest, sources or {}, weights=weights, teacher_trained=trained
    )
    meta["run"] = fingerprint[:12]

    def keep_best(iteration: int, miou: float) -> None:
        if validation is None:  # a run that resumes at its best without one
            return
        chosen = {
            "iteration": iteration,
            "miou": miou,
            "on": validation.on,
            "by_target_labels": validation.sees_target_labels,
        }
        more = {**meta, "chosen": chosen}
        save_student(models.student, out / "best", config=config.student, meta=more)

    # `kill -9` of `dvc repro` leaves its child running: two of them must not share a checkpoint.
    lock = writer_lock(out, f"the run in {out}") if ranks.first else nullcontext()
    with lock, cpu_threads(config.threads):
        if ranks.first:
            claim(out, identity, fresh=fresh, move_aside=move_aside)
        result = fit(
            config,
            TrainingState(models, optimizer, Curves()),
            feed.samples(crops),
            device=device,
            folder=out,
            fingerprint=fingerprint,
            watching=Watching(progress, validation, show_rows, keep_best),
            mixer=feed.mixer,
            ranks=ranks,
        )
        if ranks.first:
            if _has_followed(models, config):
                assert models.ema is not None
                averaged = {**meta, "network": "ema"}
                save_student(models.ema, out / "ema", config=config.student, meta=averaged)
            save_student(models.student, out / "student", config=config.student, meta=meta)
        ranks.demand_equal("done", "what is done")  # nobody leaves before the student is there
    return TrainResult(out / "student", result, trained, notes)


def _demand_other_start(init: str | None, out: Path) -> None:
    """Refuse to start from a student that this run will overwrite or remove."""
    if init is None:
        return
    start = Path(init).expanduser().resolve()
    if start in [(out / name).resolve() for name in STUDENTS]:
        raise ConfigError(
            f"train.init is {init}, which this run overwrites; train with another --out, or "
            "copy the folder and start from the copy"
        )


def _has_followed(models: Models, config: TrainConfig) -> bool:
    """Tell whether the averaged model has seen the student: before that it is random."""
    self_training = config.self_training
    return models.ema is not None and (
        self_training is not None and self_training.start < config.iterations
    )


def _open(
    config: TrainConfig, index_path: Path, manifest: Manifest, url: Url
) -> tuple[dict[Domain, StoreEntry], dict[Domain, FeatureReader]]:
    """Open the stores that training reads, if any; demand every level of every training image.

    Images that were skipped are not demanded.
    """
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
                if record.image_id not in index.skipped(domain)
            },
        )
        for domain in domains
    }
    return {domain: index.stores[domain] for domain in domains}, readers


def _identity(
    config: TrainConfig, manifest_path: Path, stores: Mapping[Domain, StoreEntry], feed: Feed
) -> dict[str, Any]:
    """Collect all that determines the weights, so that only the same run goes on in its folder."""
    return {
        "version": TRAINING_VERSION,
        "train": config.model_dump(mode="json", exclude=INCIDENTAL),
        "manifest": sha256_of_file(manifest_path),
        "features": [
            entry.levels[level].model_dump(mode="json")
            for entry in stores.values()
            for level in config.regularizer.used_levels
        ],
        "feed": feed.name,
        "start": digests_of_start(config),
    }


def _teacher_trained(stores: Mapping[Domain, StoreEntry]) -> bool | None:
    return all(teacher_of(entry)["trained"] for entry in stores.values()) if stores else None
