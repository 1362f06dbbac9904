"""Label the target from its stored features: a linear classifier learns on labels of the source.

Its probabilities of the classes are written as features are: a store of one level, `classes`, with
a channel for each class, at the stride of the level that is classified. So windows, checks and
pictures of it are those of any store. It takes minutes at most: a run that was interrupted fits the
same classifier again, and goes on with the shards that it had not written.

Legend: C channels, h w tokens, N of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.fields import Name, PositiveInt, Section
from stages.prepare.datasets.dataset import Progress
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from stages.prepare.pixels import label_window, read_train_ids, resize_label
from store.errors import StoreError, StoreMismatchError, StoreUnreadableError
from store.files import Url
from store.fingerprint import fingerprint_of, sha256_of_file
from store.index import Index, StoreEntry, labels_beside
from store.read import open_features, require_same_bases
from store.spec import ImageEntry, Level, StoreSpec
from store.write import StoreWriter


class LabelConfig(Section):
    """Section `label`, unused unless `train.self_training.labels` asks for the store's."""

    level: Name = Field(
        description="Level of the stores whose tokens are classified; one of `embed.levels`."
    )
    images: PositiveInt = Field(
        description="Most labelled images of source/train that the classifier learns from, evenly "
        "spread over them."
    )


CLASSES: Final = "classes"
"""The level of a store of labels."""

LABELLING_VERSION: Final = 1
"""Raise it when a change of this package changes the labels of the same features."""

_MOST_TOKENS: Final = 2**17  # that the classifier learns from
_MOST_OF_AN_IMAGE: Final = 512


@dataclass(frozen=True)
class LabelResult:
    """Store of the labels of the target's training images, None where nothing asked for them.

    `labelled` images were labelled now.
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
    """Bring the target's labels up to date with the stores of an index.

    Without a config it writes an empty index of labels. The labels' store joins those of features
    in `stores`, and its index is written beside `index_path`.

    Raises:
        DataError: No image of source/train has a labelled token, or one changed.
        StoreError: Features of a training image or the level are missing or damaged.
    """
    out = labels_beside(index_path)
    if config is None:
        Index(stores={}).write(out)
        return LabelResult(None)
    manifest, index = Manifest.read(manifest_path), Index.read(index_path)
    source = manifest.select(domain="source", split="train")
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
    inputs = _inputs_of(config, manifest_path, index)
    level = Level(reader.header.spec.level(config.level).stride_px, classes)
    images = [ImageEntry(r.image_id, r.content, r.working_size_px) for r in target]

    def writer(provenance: Mapping[str, Any]) -> StoreWriter:
        grid_px = reader.header.spec.grid_px
        spec = StoreSpec("target", {CLASSES: level}, grid_px, shard_images, "float16", provenance)
        return StoreWriter(stores, spec, images, [CLASSES])

    kept = kept_labels(out)
    if kept is not None and kept.provenance.get("inputs") == inputs:
        with writer(kept.provenance) as written:
            if not written.pending():
                entry = written.finalise()
                Index(stores={"target": entry}).write(out)
                return LabelResult(entry)
    from stages.device import cpu_threads  # torch
    from stages.label.classifier import fit_calibrated, labelled_tokens, token_labels

    done, total = count(1), len(source) + len(target)

    def tokens_of(record: ImageRecord) -> NDArray[Any]:  # (C, h, w)
        opened, name = readers[record.domain], record.image_id
        progress(next(done), total, f"{record.domain}/train")
        return opened.window(name, config.level, 0, 0, *opened.size_tok(name, config.level))

    most = max(1, min(_MOST_OF_AN_IMAGE, _MOST_TOKENS // len(source)))

    def examples(record: ImageRecord) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        label = read_train_ids(record, roots["source"], manifest.labels["source"])
        label = resize_label(label, record.resized_size_px)
        ids = label_window(label, 0, 0, *record.working_size_px)
        of_tokens = token_labels(ids, level.stride_px, classes)
        return labelled_tokens(tokens_of(record), of_tokens, most)

    with cpu_threads(1):  # last bits do not depend on the machine's cores
        classifier = fit_calibrated([examples(record) for record in source], classes)
        provenance = {
            "teacher": index.stores["target"].provenance["teacher"],
            "inputs": inputs,
            "classes": list(manifest.classes.names),
            "classifier": classifier.about,
        }
        labelled, records = 0, {record.image_id: record for record in target}
        with writer(provenance) as written:
            for task in written.pending():
                ids = [image.image_id for image in task.images if image is not None]
                shard = {i: classifier.label(tokens_of(records[i])) for i in ids}
                written.write_shard(task, {CLASSES: shard})
                labelled += len(shard)
            entry = written.finalise()
    Index(stores={"target": entry}).write(out)
    return LabelResult(entry, labelled)


def _inputs_of(config: LabelConfig, manifest_path: Path, index: Index) -> dict[str, Any]:
    """Name all that labels are made from."""
    features = {}
    for domain in ("source", "target"):
        entry = index.stores.get(domain)
        level = entry and entry.levels.get(config.level)
        features[domain] = level and fingerprint_of(level.model_dump(mode="json"))
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
    wanted = _inputs_of(config, manifest_path, Index.read(index_path))
    noted: Any = found.provenance.get("inputs", {})
    if other := [key for key, value in wanted.items() if noted.get(key) != value]:
        raise StoreMismatchError(
            f"{path}: the labels were made with another {', '.join(other)}; run `ssr label`"
        )


def kept_labels(path: Path) -> StoreEntry | None:
    """Return the store that an index of labels names; None where there is none to go on with."""
    try:
        return Index.read(path).stores.get("target")
    except StoreUnreadableError:
        raise
    except StoreError:
        return None
