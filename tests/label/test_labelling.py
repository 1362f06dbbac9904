"""Labels of the target are what its features tell, written once, and refused beside others."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stages.label.classifier import (
    best_temperature,
    calibration_error,
    fit_calibrated,
    token_labels,
)
from stages.label.stage import LabelConfig, require_current_labels
from stages.prepare.manifest import Domain, ImageRecord
from stages.prepare.pixels import label_window, read_train_ids, resize_label
from store.errors import DataError, StoreError
from store.fingerprint import sha256_of_file
from store.index import Index, StoreEntry, labels_beside
from store.read import FeatureReader
from store.spec import Level, StoreSpec
from store.write import StoreWriter
from tests.train.world import DOMAINS, World, entry_of

K = 11


def truth(world: World, record: ImageRecord) -> NDArray[np.uint8]:
    """Classes (h, w) of an image's tokens; of the target from files that no stage reads."""
    root, name = world.roots[record.domain], record.image.replace("/images/", "/labels/")
    digest = sha256_of_file(root / name)
    named = replace(record, label=name, label_sha256=digest, class_pixels=(0,) * K)
    ids = resize_label(
        read_train_ids(named, root, world.manifest.labels[record.domain]), record.resized_size_px
    )
    return token_labels(label_window(ids, 0, 0, *record.working_size_px), 8, K)


def embed(world: World, domain: Domain) -> StoreEntry:
    """Store features (12, h, w) that tell the class under noise; of the target they are duller."""
    rng, contrast = np.random.default_rng(3), {"source": 6.0, "target": 5.0}[domain]
    records = {record.image_id: record for record in world.records(domain)}
    spec = StoreSpec(
        domain=domain,
        levels={"stride8": Level(8, K + 1)},
        grid_px=(96, 128),
        shard_images=4,
        codec="float16",
        provenance={"teacher": {"trained": False}},
    )
    with StoreWriter(
        world.store_url, spec, [entry_of(r) for r in records.values()], ["stride8"]
    ) as writer:
        for task in writer.pending():
            shard = {}
            for image_id in [image.image_id for image in task.images if image is not None]:
                ids = truth(world, records[image_id])
                told = np.eye(K + 1, dtype=np.float32)[np.minimum(ids, K)].transpose(2, 0, 1)
                noise = rng.standard_normal(told.shape, np.float32)
                shard[image_id] = contrast * told + noise
            writer.write_shard(task, {"stride8": shard})
        return writer.finalise()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Inputs whose features tell the class; copy them to damage them."""
    world = World(tmp_path_factory.mktemp("told"))
    world.prepare(images=10)
    Index(stores={domain: embed(world, domain) for domain in DOMAINS}).write(world.index_path)
    return world


@pytest.fixture
def mine(told: World, tmp_path: Path) -> World:
    return told.copy(tmp_path / "mine")


def labels_of(world: World) -> tuple[StoreEntry, FeatureReader]:
    entry = Index.read(labels_beside(world.index_path)).stores["target"]
    return entry, FeatureReader(world.store_url / entry.path)


def test_a_classifier_of_features_that_tell_the_class_labels_the_target(mine: World) -> None:
    assert mine.label().labelled == 10
    entry, reader = labels_of(mine)
    right, sure, total = 0, 0.0, 0
    for record in mine.records("target"):
        ids = truth(mine, record)
        shares = reader.window(record.image_id, "classes", 0, 0, *ids.shape)
        np.testing.assert_allclose(shares.astype(np.float32).sum(0), 1, atol=5e-3)
        seen = ids < K
        right += int((shares.argmax(0) == ids)[seen].sum())
        sure += float(shares.max(0).astype(np.float32)[seen].sum())
        total += int(seen.sum())
    assert right / total > 0.95
    assert sure / total > 0.9
    assert entry.provenance["classes"] == list(mine.manifest.classes.names)
    about: Any = entry.provenance["classifier"]
    assert (about["images"], about["held_out"]) == (9, 1)
    assert about["accuracy"] > 0.95
    assert about["calibration_error"] < 0.1


def test_labels_are_made_once_and_an_interrupted_stage_ends_with_the_same(
    mine: World, tmp_path: Path
) -> None:
    other = mine.copy(tmp_path / "other")

    def kill(done: int, total: int, what: str) -> None:
        assert total == 20
        if done == 16:  # six of the target: one shard is written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine.label(kill)
    assert mine.label().labelled == 6
    index = labels_beside(mine.index_path).read_bytes()
    assert mine.label().labelled == 0
    other.label()
    assert labels_beside(mine.index_path).read_bytes() == index
    assert labels_beside(other.index_path).read_bytes() == index
    entry, _ = labels_of(mine)
    shutil.rmtree(mine.store_url / entry.path / "classes")
    assert mine.label().labelled == 10  # what was lost is made again


def test_without_the_level_of_both_domains_or_a_labelled_token_there_is_one_line(
    mine: World,
) -> None:
    with pytest.raises(DataError, match="no image of source/train has a labelled token"):
        fit_calibrated([(np.zeros((0, 12), np.float32), np.zeros(0, np.uint8))], K)
    stores = Index.read(mine.index_path).stores
    Index(stores={"source": stores["source"]}).write(mine.index_path)
    with pytest.raises(StoreError, match=r"no features of target.*run `ssr embed`"):
        mine.label()
    mine.embed(levels=["stride16"])
    with pytest.raises(StoreError, match=r"no stride8.*add it to embed.levels and run `ssr embed`"):
        mine.label()


def test_labels_of_other_features_or_images_are_refused(mine: World) -> None:
    def require() -> None:
        config = LabelConfig(level="stride8", images=100)
        require_current_labels(config, manifest_path=mine.manifest_path, index_path=mine.index_path)

    mine.label()
    require()
    world = mine.manifest
    replace(world, records=world.records[1:]).write(mine.manifest_path)
    mine.embed(levels=["stride16"])
    with pytest.raises(StoreError, match=r"with another manifest, features; run"):
        require()


def test_probabilities_that_are_too_sure_are_calibrated() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(5000, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert best_temperature(3 * logits, labels) == pytest.approx(3, rel=0.1)
    assert calibration_error(logits, labels) < 0.02
    assert calibration_error(3 * logits, labels) > 0.1
    sure = torch.tensor([[50.0, 0.0]]).expand(4, 2)
    assert calibration_error(sure, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.25)
