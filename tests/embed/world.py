"""A folder of images with a manifest, and the stage run over it."""

import hashlib
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.embed.config import EmbedConfig
from stages.embed.stage import DomainResult, Progress, Step, run
from stages.prepare.datasets.camvid import CAMVID_11
from stages.prepare.geometry import Size, working_size
from stages.prepare.manifest import ImageRecord, Manifest
from store.codec import Projection


def draw(size_px: Size, seed: int) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with soft blobs and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (size_px[1], size_px[0]), interpolation=cv2.INTER_CUBIC)
    noise = rng.integers(-20, 21, smooth.shape)
    picture: NDArray[np.uint8] = (smooth + noise).clip(0, 255).astype(np.uint8)
    return picture


def changed(config: EmbedConfig, **changes: Any) -> EmbedConfig:  # noqa: ANN401
    """Change keys of section `embed`, or of its teacher."""
    of_teacher: dict[str, Any] = {
        key: changes.pop(key) for key in ("architecture", "weights", "seed") if key in changes
    }
    teacher = config.teacher.model_copy(update=of_teacher)
    return config.model_copy(update={**changes, "teacher": teacher})


def silent(done: int, total: int, what: str) -> None:
    """Report to nobody."""


@dataclass
class World:
    """Images below `folder/images`, stores below `folder/features`."""

    folder: Path
    config: EmbedConfig
    shard_images: int = 2
    records: dict[str, ImageRecord] = field(default_factory=dict)
    codec: str = "float16"
    projection: Projection | None = None

    @property
    def store_url(self) -> Path:
        return self.folder / "features"

    @property
    def index_path(self) -> Path:
        return self.folder / "features.json"

    @property
    def manifest(self) -> Manifest:
        return Manifest(CAMVID_11, tuple(self.records.values()), {})

    def add(self, name: str, size_px: Size = (96, 128), seed: int = 0) -> NDArray[np.uint8]:
        """Save a picture and list it as `source/train/<name>`; again to change it."""
        path = self.folder / "images" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        picture = draw(size_px, seed)
        Image.fromarray(picture).save(path)
        self.list(path, size_px)
        return picture

    def list(self, path: Path, size_px: Size) -> None:
        """List a picture that is there."""
        image_id = f"source/train/{path.stem}"
        self.records[image_id] = ImageRecord(
            image_id=image_id,
            domain="source",
            split="train",
            image=path.name,
            label=None,
            raw_size_px=size_px,
            resized_size_px=size_px,
            working_size_px=working_size(size_px, 0),
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            class_pixels=None,
            label_sha256=None,
        )

    def twin(self, folder: Path) -> "World":
        """The same images elsewhere, not embedded yet."""
        shutil.copytree(self.folder / "images", folder / "images")
        return replace(self, folder=folder, records=dict(self.records))

    def run(
        self,
        progress: Progress = silent,
        step: Step = "all",
        **changes: Any,  # noqa: ANN401
    ) -> DomainResult:
        """Run the stage with changed keys of the config."""
        return run(
            changed(self.config, **changes),
            manifest=self.manifest,
            roots={"source": self.folder / "images"},
            store_url=self.store_url,
            shard_images=self.shard_images,
            codec=self.codec,
            index_path=self.index_path,
            progress=progress,
            step=step,
            projection=self.projection,
        )["source"]

    def features(self) -> dict[str, bytes]:
        """Content of every file of every store but those of leases, and of the index."""
        found = self.store_url.rglob("*.zarr/**/*")
        files = [p for p in found if p.is_file() and p.parent.name != "leases"]
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in [*files, self.index_path]}
