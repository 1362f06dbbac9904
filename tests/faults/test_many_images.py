"""Ten thousand images: the last ones cost what the first ones did, and the plan was right."""

import os
import resource
import time
from pathlib import Path
from statistics import mean, median

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.checks import run_embed
from pipeline.options import INDEX, MANIFEST
from pipeline.params import load_params
from pipeline.plan import plan_stores
from stages.embed.config import EmbedConfig
from stages.prepare.manifest import Manifest
from tests.conftest import Tell
from tests.pipeline.workplace import SMALLEST, demand, write_params
from tests.prepare.conftest import folder_config

SIDE_PX = 64
SHARD_IMAGES = 100


class Meter:
    """What each shard cost.

    Machines that others use as well get slower and faster by a third. The time of a shard is
    therefore counted in the time of a forward pass, one of which is run after every ten images.

    Attributes:
        passes: Processor time of each shard over that of a forward pass.
        pass_s: Processor time of a forward pass during each shard.
        rss_bytes: Resident memory after each shard.
    """

    def __init__(self, config: EmbedConfig) -> None:
        self._teacher = config.load_encoder()
        self._tile = torch.zeros(1, 3, config.teacher.side_px, config.teacher.side_px)
        self._yardstick_s: list[float] = []
        self._begun_s = time.process_time()
        self.passes: list[float] = []
        self.pass_s: list[float] = []
        self.rss_bytes: list[int] = []

    def __call__(self, done: int, total: int, what: str) -> None:
        if done % 10 == 0:
            started_s = time.thread_time()
            self._teacher.encode(self._tile, ["stride8"])
            self._yardstick_s.append(time.thread_time() - started_s)
        if done % SHARD_IMAGES == 0:
            spent_s = time.process_time() - self._begun_s - sum(self._yardstick_s)
            self.pass_s.append(mean(self._yardstick_s))
            self.passes.append(spent_s / self.pass_s[-1])
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.rss_bytes.append(pages * resource.getpagesize())
            self._yardstick_s.clear()
            self._begun_s = time.process_time()


def embed_many(folder: Path, count: int, tell: Tell) -> Meter:
    """Prepare, plan and embed as many photos; the plan must come true."""
    write_params(
        folder,
        {
            **SMALLEST,
            "prepare.source": folder_config(Path("photos"), val_images=None, val_labels=None),
            "prepare.target": None,
            "store.shard_images": SHARD_IMAGES,
            "embed.domains": ["source"],
            "embed.threads": 1,
            "train.self_training": None,
            "train.regularizer.on": ["source"],
        },
    )
    save_photos(folder / "photos" / "train", count)
    demand("prepare")
    params, manifest = load_params(Path("params.yaml")), Manifest.read(MANIFEST)
    meter = Meter(params.embed)
    result = run_embed(params, manifest, index_path=INDEX, progress=meter, step="all").domains[
        "source"
    ]
    assert (result.images, result.embedded) == (count, count)

    (planned,) = plan_stores(params, manifest)
    sizes = [path.stat().st_size for path in Path(str(result.path)).glob(f"{planned.level}/c.*")]
    tell(f"{count} images: {len(sizes)} shards, {sum(sizes)} bytes")
    assert planned.size_bytes == sum(sizes)
    return meter


def save_photos(split: Path, count: int) -> None:
    """Save photos of noise with one label each."""
    rng = np.random.default_rng(count)
    for kind in ("images", "labels"):
        (split / kind).mkdir(parents=True)
    label = split / "label.png"
    Image.fromarray(np.zeros((SIDE_PX, SIDE_PX), np.uint8)).save(label)
    for number in range(count):
        photo = rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8)
        Image.fromarray(photo).save(split / "images" / f"{number:05d}.bmp")
        os.link(label, split / "labels" / f"{number:05d}.png")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_150_images_take_the_files_and_the_room_that_was_planned(
    tmp_path: Path, tell: Tell
) -> None:
    embed_many(tmp_path, 150, tell)


@pytest.mark.slow
def test_the_last_thousand_of_10000_images_cost_what_the_first_did(
    tmp_path: Path, tell: Tell
) -> None:
    meter = embed_many(tmp_path, 10_000, tell)
    parts = slice(1000 // SHARD_IMAGES), slice(-1000 // SHARD_IMAGES, None)
    first, last = (median(meter.passes[part]) / SHARD_IMAGES for part in parts)
    first_ms, last_ms = (1e3 * median(meter.pass_s[part]) for part in parts)
    first_rss, last_rss = (median(meter.rss_bytes[part]) / 2**20 for part in parts)
    tell(
        f"an image of the first thousand cost {first:.3f} forward passes of {first_ms:.1f} ms, "
        f"of the last {last:.3f} of {last_ms:.1f} ms; "
        f"resident memory {first_rss:.0f} and {last_rss:.0f} MiB"
    )
    assert last < 1.1 * first
    assert last_rss < 1.05 * first_rss
