"""The images and features of the benchmark: drawn, of twice the crop's width."""

# C channels, h w tokens

from collections.abc import Sequence
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
    """Windows of a store's features that lie in memory.

    Each loader process reads `file` (images, C, h, w), of the images `names`, for itself: sent to
    it, features fill the pipe, and each process has to start up before the next one is started.
    """

    def __init__(self, path: Path, file: Path, names: Sequence[str]) -> None:
        super().__init__(path)
        self._from = file, names
        self._held = dict(zip(names, np.load(file), strict=True))

    def __reduce__(self) -> tuple[type["MemoryReader"], tuple[Any, ...]]:
        return MemoryReader, (self._path, *self._from)

    def window(self, image_id: str, level: str, y: int, x: int, h: int, w: int) -> NDArray[Any]:
        """Copy the tokens (C, h, w) from (y, x) on."""
        held: NDArray[Any] = self._held[image_id]
        return held[:, y : y + h, x : x + w].copy()


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
            names = [each.image_id for each in manifest.select(domain=domain, split="train")]
            readers[domain] = MemoryReader(path, folder / f"{domain}.npy", names)
        else:
            readers[domain] = FeatureReader(path)
    roots = dict.fromkeys(DOMAINS, folder / "drawn")
    return TrainingCrops(config=config, manifest=manifest, roots=roots, readers=readers)
