"""The images and features of the benchmark: drawn, of twice the crop's width."""

# C channels, h w tokens

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.step_time.setting import LEVEL, Setting, configure, reads_features
from stages.prepare import stage as prepare
from stages.prepare.manifest import Domain, Manifest
from stages.prepare.stage import PrepareConfig
from stages.train.crops import TrainingCrops
from store.read import FeatureReader
from store.spec import ImageEntry, Level, StoreSpec
from store.write import StoreWriter

DOMAINS: Final[tuple[Domain, ...]] = ("source", "target")
IMAGES: Final = 8
"""Of each domain."""


class MemoryReader(FeatureReader):
    """Windows of a store's features that lie in memory: image id -> (C, h, w)."""

    def __init__(self, path: Path, held: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(path)
        self._held = held

    def __reduce__(self) -> tuple[type["MemoryReader"], tuple[Any, ...]]:
        return MemoryReader, (self._path, self._held)

    def window(self, image_id: str, level: str, y: int, x: int, h: int, w: int) -> NDArray[Any]:
        """Copy the tokens (C, h, w) from (y, x) on."""
        return self._held[image_id][:, y : y + h, x : x + w].copy()


def draw_data(folder: Path, setting: Setting) -> None:
    """Draw images, and write stores of random features beside them."""
    size = {"width_px": 2 * setting.crop, "height_px": setting.crop, "fit_px": None}
    drawn = {"kind": "drawn", "root": str(folder / "drawn"), "strength": 1.0, **size}
    drawn |= {"train": IMAGES, "val": 1}
    how = {"pad_to_px": setting.crop, "on_bad_image": "fail"}
    source, target = {**drawn, "style": "day", "seed": 1}, {**drawn, "style": "dusk", "seed": 2}
    prepare.run(
        PrepareConfig.model_validate({"source": source, "target": target, **how}),
        out=folder / "manifest.parquet",
        cache=folder / "scan.parquet",
        progress=lambda *_: None,
    )
    manifest, rng = read_manifest(folder), np.random.default_rng(0)
    for domain in DOMAINS:
        _write_features(folder, domain, manifest, setting, rng)


def _write_features(
    folder: Path, domain: Domain, manifest: Manifest, setting: Setting, rng: np.random.Generator
) -> None:
    """Write the same features as a store for arm b and as an array for arm d."""
    entries = [
        ImageEntry(record.image_id, record.content, record.working_size_px)
        for record in manifest.select(domain=domain, split="train")
    ]
    grid_px, channels = entries[0].working_size_px, setting.teacher_channels
    shape = (len(entries), channels, *(side // 8 for side in grid_px))
    features = rng.standard_normal(shape, dtype=np.float32)
    np.save(folder / f"{domain}.npy", features.astype(np.float16))
    held = {entry.image_id: row for entry, row in zip(entries, features, strict=True)}
    spec = StoreSpec(domain, {LEVEL: Level(8, channels)}, grid_px, 4, "float16", {})
    with StoreWriter(folder / "features", spec, entries, [LEVEL]) as writer:
        for task in writer.pending():
            names = [image.image_id for image in task.images if image is not None]
            writer.write_shard(task, {LEVEL: {name: held[name] for name in names}})
        path = writer.finalise().path
    (folder / f"{domain}.path").write_text(path)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest that `draw_data` left."""
    return Manifest.read(folder / "manifest.parquet")


def crops_of(arm: str, folder: Path, setting: Setting) -> TrainingCrops:
    """Open the samples of an arm; those that read no store are not asked for windows of it."""
    config, manifest = configure(setting, arm), read_manifest(folder)
    if not reads_features(arm):
        nowhere = config.regularizer.model_copy(update={"on": ()})
        config = config.model_copy(update={"regularizer": nowhere})
    readers: dict[Domain, FeatureReader] = {}
    for domain in DOMAINS if reads_features(arm) else ():
        path = folder / "features" / (folder / f"{domain}.path").read_text()
        if arm == "d":
            records = manifest.select(domain=domain, split="train")
            features = np.load(folder / f"{domain}.npy")
            held = {record.image_id: row for record, row in zip(records, features, strict=True)}
            readers[domain] = MemoryReader(path, held)
        else:
            readers[domain] = FeatureReader(path)
    roots = dict.fromkeys(DOMAINS, folder / "drawn")
    return TrainingCrops(config=config, manifest=manifest, roots=roots, readers=readers)
