"""Label the target from its stored features: a linear classifier learns on labels of the source.

Its probabilities of the classes are written as features are: a store of one level, `classes`, with
a channel for each class, at the stride of the level that is classified. So windows, checks and
pictures of it are those of any store. It takes minutes at most: a run that was interrupted fits the
same classifier again, and goes on with the shards that it had not written.

Legend: N tokens, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.device import cpu_threads
from stages.label.classifier import LinearProbe, labelled_tokens, token_labels
from stages.label.config import LabelConfig
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from stages.prepare.pixels import label_window, read_train_ids, resize_label
from store.errors import DataError, StoreError, StoreMismatchError
from store.files import Url
from store.fingerprint import fingerprint_of, sha256_of_file
from store.index import Index, StoreEntry, labels_beside
from store.read import FeatureReader, open_features, require_same_bases
from store.spec import ImageEntry, Level, StoreSpec
from store.write import StoreWriter

CLASSES: Final = "classes"
"""The level of a store of labels."""

LABELLING_VERSION: Final = 1
"""Raise it when a change of this package changes the labels of the same features."""

_MOST_TOKENS: Final = 2**17  # that the classifier learns from
_MOST_OF_AN_IMAGE: Final = 512
_BINS: Final = 15  # of the calibration error

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class LabelResult:
    """The labels of the target's training images; none where nothing asked for them.

    Attributes:
        entry: Their store, with what is known of the classifier in its provenance.
        labelled: Images that were labelled now.
    """

    entry: StoreEntry | None
    labelled: int = 0


def run(
    config: LabelConfig | None,
    *,
    manifest_path: Path,
    roots: Mapping[Domain, Path],
    stores: Url,
    index_path: Path,
    shard_images: int,
    progress: Progress,
) -> LabelResult:
    """Bring the labels beside an index up to date with its stores; None makes an empty index.

    Args:
        config: Section `label`.
        manifest_path: The images.
        roots: Folder of each domain.
        stores: Where the paths of the index begin; the labels' store joins them.
        index_path: The index of features; that of the labels is written beside it.
        shard_images: Images per shard.
        progress: Called with images done, images to do, and which they are.

    Raises:
        DataError: No image of source/train has a label and a labelled token, or one changed.
        StoreError: Features of a training image or the level are missing or damaged.
    """
    out = labels_beside(index_path)
    if config is None:
        Index(stores={}).write(out)
        return LabelResult(None)
    manifest, index = Manifest.read(manifest_path), Index.read(index_path)
    source = [r for r in manifest.select(domain="source", split="train") if r.label is not None]
    if not source:
        raise DataError(
            "no image of source/train has a label to learn from: set the labels of prepare.source "
            "and run `ssr prepare`"
        )
    source = source[:: -(-len(source) // config.images)]
    target = manifest.select(domain="target", split="train")
    groups: dict[Domain, Sequence[ImageRecord]] = {"source": source, "target": target}
    readers = {
        domain: open_features(
            stores,
            index,
            domain,
            levels=[config.level],
            images={record.image_id: record.content for record in records},
        )
        for domain, records in groups.items()
    }
    require_same_bases(readers.values(), [config.level])
    reader, classes = readers["target"], len(manifest.classes)
    inputs = inputs_of(config, manifest_path, index)
    level = Level(reader.header.spec.level(config.level).stride_px, classes)
    images = [ImageEntry(r.image_id, r.content, r.working_size_px) for r in target]

    def writer(provenance: Mapping[str, Any]) -> StoreWriter:
        grid_px = reader.header.spec.grid_px
        spec = StoreSpec("target", {CLASSES: level}, grid_px, shard_images, "float16", provenance)
        return StoreWriter(stores, spec, images, [CLASSES])

    kept = kept_labels(out)
    if kept is not None and kept.provenance["inputs"] == inputs:
        with writer(kept.provenance) as written:
            if not written.pending():
                entry = written.finalise()
                Index(stores={"target": entry}).write(out)
                return LabelResult(entry)
    done, total = count(1), len(source) + len(target)
    with cpu_threads(1):  # its last bits do not depend on the machine's cores
        fitted = _fit(
            source,
            readers["source"],
            manifest,
            roots["source"],
            level=config.level,
            image_done=lambda: progress(next(done), total, "source"),
        )
        provenance = {
            "teacher": index.stores["target"].provenance["teacher"],
            "inputs": inputs,
            "classes": list(manifest.classes.names),
            "classifier": fitted.about,
        }
        labelled = 0
        with writer(provenance) as written:
            for task in written.pending():
                shard = {}
                for image_id in task.image_ids:
                    size = reader.size_tok(image_id, config.level)
                    window = reader.window(image_id, config.level, 0, 0, *size)
                    shard[image_id] = fitted.probe.probabilities(window, fitted.temperature)
                    progress(next(done), total, "target")
                written.write_shard(task, {CLASSES: shard})
                labelled += len(shard)
            entry = written.finalise()
    Index(stores={"target": entry}).write(out)
    return LabelResult(entry, labelled)


def inputs_of(config: LabelConfig, manifest_path: Path, index: Index) -> dict[str, Any]:
    """Name all that labels are made from.

    Raises:
        StoreError: The index lacks the level of a domain.
    """
    features = {}
    for domain in ("source", "target"):
        entry = index.stores.get(domain)
        if entry is None or config.level not in entry.levels:
            raise StoreError(
                f"the index has no {config.level} of {domain}, which label.level names: add it to "
                "embed.levels, and both domains to embed.domains, and run `ssr embed`"
            )
        features[domain] = fingerprint_of(entry.levels[config.level].model_dump(mode="json"))
    return {
        "label.level": config.level,
        "label.images": config.images,
        "manifest": sha256_of_file(manifest_path),
        "features": features,
        "version": LABELLING_VERSION,
    }


def require_current_labels(config: LabelConfig, *, manifest_path: Path, index_path: Path) -> None:
    """Refuse labels that were made from other features, images or parameters.

    Raises:
        StoreError: There are none, or they were made from others.
    """
    path = labels_beside(index_path)
    found = kept_labels(path)
    if found is None:
        raise StoreError(f"{path}: there are no labels from the store yet; run `ssr label`")
    wanted, made = inputs_of(config, manifest_path, Index.read(index_path)), found.provenance
    noted = made["inputs"]
    assert isinstance(noted, Mapping)
    if other := [key for key, value in wanted.items() if noted.get(key) != value]:
        raise StoreMismatchError(
            f"{path}: labels were made from other {', '.join(other)}; run `ssr label`"
        )


def kept_labels(path: Path) -> StoreEntry | None:
    """Return the store that an index of labels names; None where there is none to go on with."""
    try:
        entry = Index.read(path).stores.get("target")
    except StoreError:
        return None
    return entry if entry is not None and "inputs" in entry.provenance else None


@dataclass(frozen=True)
class _Fitted:
    """A classifier, and what is known of it from images that it has not seen."""

    probe: LinearProbe
    temperature: float
    about: Mapping[str, Any]


def _fit(
    records: Sequence[ImageRecord],
    reader: FeatureReader,
    manifest: Manifest,
    root: Path,
    *,
    level: str,
    image_done: Callable[[], None],
) -> _Fitted:
    """Learn from all images but the last tenth, on which probabilities are calibrated.

    Neighbours in order may be frames of one film: a held out image amid the others would be known.
    """
    held = max(1, len(records) // 10)
    learn = records[:-held] or records
    classes, stride = len(manifest.classes), reader.header.spec.level(level).stride_px
    most = max(1, min(_MOST_OF_AN_IMAGE, _MOST_TOKENS // len(learn)))
    parts = []
    for record in records:
        label = read_train_ids(record, root, manifest.labels["source"])
        label = resize_label(label, record.resized_size_px)
        label = label_window(label, 0, 0, *record.working_size_px)
        window = reader.window(
            record.image_id, level, 0, 0, *reader.size_tok(record.image_id, level)
        )
        parts.append(labelled_tokens(window, token_labels(label, stride, classes), most))
        image_done()

    tokens, ids = (np.concatenate(each) for each in zip(*parts[: len(learn)], strict=True))
    unseen, truth = (np.concatenate(each) for each in zip(*parts[-held:], strict=True))
    if not len(ids):
        raise DataError("no image of source/train has a labelled token: label some")
    probe = LinearProbe(tokens, ids, classes)
    about: dict[str, Any] = {"sha256": probe.digest, "images": len(learn), "held_out": held}
    temperature = 1.0
    if len(truth):
        logits, target = probe.logits(unseen), torch.from_numpy(truth).long()
        temperature = best_temperature(logits, target)
        right = (logits.argmax(1) == target).float().mean()
        about |= {
            "accuracy": round(float(right), 4),
            "calibration_error": round(calibration_error(logits / temperature, target), 4),
            "calibration_error_before": round(calibration_error(logits, target), 4),
        }
    return _Fitted(probe, temperature, about | {"temperature": round(temperature, 4)})


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return what to divide logits (N, K) by, 1/4 to 8, for the least cross entropy with (N,)."""
    grid: list[float] = torch.logspace(-2, 3, 101, base=2).tolist()
    return min(grid, key=lambda t: float(F.cross_entropy(logits / t, labels)))


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error: how far confidence is from being right, on average.

    Guo et al., arXiv 1706.04599, over 15 bins of equal width; logits (N, K), labels (N,).
    """
    confidence, predicted = logits.softmax(1).max(1)
    off = confidence - (predicted == labels).float()
    bins = (confidence * _BINS).long().clamp(max=_BINS - 1)
    sums = torch.zeros(_BINS).index_add_(0, bins, off)
    return float(sums.abs().sum() / len(labels))
