"""A world small enough to train on in a test: drawn images, a manifest, stores of random features.

The source's images are scaled down and padded at the right, those of the target are padded at the
right and below, so that raw, resized and working images differ.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stages.label import stage as label_stage
from stages.label.stage import LabelConfig, LabelResult
from stages.prepare import stage as prepare
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from stages.prepare.restyled import Restyled
from stages.prepare.stage import PrepareConfig
from stages.student.student import Student
from stages.train import stage
from stages.train.config import TrainConfig
from stages.train.crops import TrainingCrops
from stages.train.loop import Progress
from stages.train.models import build_models
from stages.train.monitor import Curves
from stages.train.ranks import ALONE
from stages.train.regularizers.branch import Branch
from stages.train.stage import TrainResult
from stages.train.state import TrainingState, build_optimizer
from stages.train.validate import Validation
from stages.train.workspace import Workspace
from store.index import Index, StoreEntry
from store.spec import ImageEntry, Level, StoreSpec, levels_of_format_1
from tests.store import worlds as stores
from tests.train.example import train_config

TEACHER: dict[str, Any] = {"architecture": "random numbers", "channels": 4, "trained": False}
LEVELS = ("stride8", "stride16")
DOMAINS: tuple[Domain, ...] = ("source", "target")


def silent(done: int, total: int, what: str) -> None:
    """Report to nobody."""


def stop_at(step: int) -> Progress:
    """Press Ctrl-C after a step."""

    def interrupt(done: int, total: int, what: str) -> None:
        if done == step:
            raise KeyboardInterrupt

    return interrupt


@dataclass(frozen=True)
class Scripted(Validation):
    """A measurement whose outcome is known beforehand."""

    outcome: Callable[[Student], float] = lambda student: 0.0

    def measure(self, student: Student, branch: Branch | None) -> dict[str, float]:
        return {"miou": self.outcome(student)}


@dataclass(frozen=True)
class World:
    """All inputs of training, in one folder."""

    folder: Path

    @property
    def manifest_path(self) -> Path:
        return self.folder / "manifest.parquet"

    @property
    def store_url(self) -> Path:
        return self.folder / "features"

    @property
    def index_path(self) -> Path:
        return self.folder / "index.json"

    @property
    def roots(self) -> dict[Domain, Path]:
        return dict.fromkeys(DOMAINS, self.folder / "drawn")

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.manifest_path, self.index_path, self.store_url, self.roots)

    @property
    def manifest(self) -> Manifest:
        return Manifest.read(self.manifest_path)

    def records(self, domain: Domain) -> tuple[ImageRecord, ...]:
        if domain == "restyled":
            made = Restyled.read(self.workspace.restyled, of=self.manifest_path)
            return made.manifest.select(split="train")
        return self.manifest.select(domain=domain, split="train")

    def prepare(self, *, images: int = 6, target: bool = True, labelled: int = 0) -> None:
        """Draw the images and write the manifest."""
        sizes: dict[str, dict[str, Any]] = {
            "source": {"width_px": 160, "height_px": 80, "fit_px": [120, 60]},  # 60x120 in 64x128
            "target": {"width_px": 112, "height_px": 72, "fit_px": None},  # 72x112 in 96x128
        }
        common = {"kind": "drawn", "root": str(self.folder / "drawn"), "strength": 1.0}
        common |= {"train": images, "val": 1}
        source = {**common, "style": "day", "seed": 1, **sizes["source"]}
        dusk = {**common, "style": "dusk", "seed": 2, "labelled": labelled, **sizes["target"]}
        prepare.run(
            PrepareConfig.model_validate(
                {
                    "source": source,
                    "target": dusk if target else None,
                    "pad_to_px": 64,
                    "on_bad_image": "fail",
                }
            ),
            out=self.manifest_path,
            cache=self.folder / "scan.parquet",
            progress=silent,
        )

    def embed(
        self,
        domains: Sequence[Domain] = DOMAINS,
        levels: Sequence[str] = LEVELS,
        teachers: Mapping[str, Mapping[str, Any]] | None = None,
        offered: Mapping[str, Level] = levels_of_format_1(TEACHER["channels"]),
    ) -> None:
        """Write stores of random features, and the index; by `teachers` one per domain."""
        entries: dict[str, StoreEntry] = {
            d: self._embed(d, levels, (teachers or {}).get(d, TEACHER), offered) for d in domains
        }
        Index(stores=entries).write(self.index_path)

    def _embed(
        self,
        domain: Domain,
        levels: Sequence[str],
        teacher: Mapping[str, Any],
        offered: Mapping[str, Level],
    ) -> StoreEntry:
        images = [entry_of(record) for record in self.records(domain)]
        heights, widths = zip(*(image.working_size_px for image in images), strict=True)
        spec = StoreSpec(
            domain=domain,
            levels=offered,
            grid_px=(max(heights), max(widths)),
            shard_images=4,
            codec="float16",
            provenance={"teacher": dict(teacher)},
        )
        return stores.write(self.store_url, images, levels=levels, spec=spec)[0]

    def store(self, domain: Domain) -> Path:
        """Folder of the domain's store that the index names."""
        return self.store_url / Index.read(self.index_path).stores[domain].path

    def label(self, progress: Progress = silent, images: int = 100) -> LabelResult:
        """Label the target by its stores."""
        return label_stage.run(
            LabelConfig(level="stride8", images=images),
            manifest_path=self.manifest_path,
            roots=self.roots,
            stores=self.store_url,
            index_path=self.index_path,
            shard_images=4,
            progress=progress,
        )

    def run(self, out: Path, progress: Progress = silent, **changes: Any) -> TrainResult:  # noqa: ANN401
        """Train with changed keys of the example."""
        return self.train(train_config(**changes), out, progress)

    def train(
        self,
        config: TrainConfig,
        out: Path,
        progress: Progress = silent,
        **options: Any,  # noqa: ANN401
    ) -> TrainResult:
        """Train; options are those of `stage.run`."""
        return stage.run(config, workspace=self.workspace, out=out, progress=progress, **options)

    def resumes(
        self,
        config: TrainConfig,
        folder: Path,
        *,
        stop: int,
        at: int,
        cheaper: TrainConfig | None = None,
        validation: Validation | None = None,
    ) -> dict[str, Any]:
        """Train through, and stopped after some steps and resumed; demand and return equal bits."""
        through, again = folder / "through", folder / "resumed"
        assert self.train(config, through, validation=validation).resumed_from is None
        with pytest.raises(KeyboardInterrupt):
            self.train(config, again, stop_at(stop), validation=validation)
        resumed = self.train(cheaper or config, again, validation=validation)
        assert resumed.resumed_from == at
        found = results(through)
        assert_same(results(again), found)
        return found

    def scripted(self, outcome: Callable[[Student], float]) -> Scripted:
        """Validate on the target by something else than its labels."""
        records = self.manifest.select(domain="target", split="val")
        return Scripted(records, self.manifest, self.roots, outcome=outcome)

    def state(self, config: TrainConfig) -> TrainingState:
        """New networks, as training builds them, and their optimiser."""
        _, readers = stage.open_stores(config, self.workspace, self.manifest)
        models, _ = build_models(config, self.manifest, readers, ALONE)
        optimizer = build_optimizer(
            models.student, models.regularizer, config.optimizer, models.distiller
        )
        return TrainingState(models, optimizer, Curves())

    def crops(self, config: TrainConfig) -> TrainingCrops:
        """Training samples, as training opens them."""
        place, manifest, restyled = self.workspace, self.manifest, None
        if config.restyled is not None:
            restyled = Restyled.read(place.restyled, of=self.manifest_path)
        return TrainingCrops(
            config=config,
            manifest=manifest,
            roots=self.roots,
            readers=stage.open_stores(config, place, manifest)[1],
            labels=stage.open_labels(config, place, manifest)[1],
            restyled=restyled,
        )

    def copy(self, folder: Path) -> "World":
        shutil.copytree(self.folder, folder)
        return World(folder)


def build_world(folder: Path) -> World:
    """Six training images per domain, embedded at two levels."""
    world = World(folder)
    world.prepare()
    world.embed()
    return world


def entry_of(record: ImageRecord) -> ImageEntry:
    return ImageEntry(record.image_id, record.content, record.working_size_px)


def features(record: ImageRecord, level: str) -> NDArray[np.float16]:
    """What was stored of an image, (C, h, w)."""
    return stores.features(entry_of(record), level, 4).astype(np.float16)


def results(out: Path) -> dict[str, Any]:
    """All that a run leaves behind, for `assert_same`."""
    names = [
        "curves.csv",
        "health.csv",
        "validation.csv",
        "student/model.safetensors",
        "student/config.json",
        *(name for name in ("best/model.safetensors", "best/config.json") if (out / name).exists()),
    ]
    files: dict[str, Any] = {name: (out / name).read_bytes() for name in names}
    return files | {"checkpoint": torch.load(out / "checkpoint.pt", weights_only=True)}


def assert_same(one: Any, other: Any, where: str = "") -> None:  # noqa: ANN401
    """Demand equal values down to the last bit of every tensor in nested containers."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for position, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{position}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype, where
        np.testing.assert_array_equal(one, other, err_msg=where)
    else:
        assert one == other, where
