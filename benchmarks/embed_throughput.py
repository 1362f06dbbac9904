"""Tiles per second of the teacher: the official encoder against ours, bare and with all I/O.

All rows come from one run, interleaved, as medians: only their ratios mean something on a shared
machine. Weights are random, tables of relative positions too, which changes no time.

    python benchmarks/embed_throughput.py --architecture vit_b --repeats 3
    python benchmarks/embed_throughput.py --device cuda --precisions bfloat16 --batch 8 \
        --tiles 2000 --repeats 1     # TMPDIR should be in memory: 2 GB per 1000 tiles
"""

import argparse
import copy
import hashlib
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Final, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from stages.device import cpu_threads, pick_device
from stages.embed.config import EmbedConfig
from stages.embed.task import embed_shards, run_serial
from stages.embed.teachers.encoder import Encoder
from stages.embed.teachers.sam import SamTeacher
from stages.embed.teachers.sam_encoder import draw_encoder, fuse_attention
from stages.embed.teachers.sam_sizes import ARCHITECTURES
from stages.embed.teachers.teacher import Precision
from stages.prepare.manifest import ImageRecord
from store.spec import ImageEntry, Level, StoreSpec
from store.write import StoreWriter

GMAC: Final = {"vit_b": 486, "vit_l": 1493, "vit_h": 2981}
"""Multiplications of one 1024 px tile in 10^9; a multiplication and an addition are two FLOP."""

WORKING_PX: Final = (512, 960)  # two tiles of a 1024 px teacher at stride 8, with 12.5 % of overlap
RAW_PX: Final = (578, 1083)
TILES_PER_IMAGE: Final = 2
LEVELS: Final = ("stride8",)
SHARD_IMAGES: Final = 16
PICTURES: Final = 8
"""Pictures that are drawn; images beyond them are links."""


@dataclass
class Row:
    """One line of the table.

    Attributes:
        name: what was run.
        run: does it once.
        tiles: how many tiles that was.
        cosine: least cosine of a token to the official float32 one; None where it was not asked.
        wall_s: wall seconds of each repeat; likewise `cpu_s`, of all threads.
    """

    name: str
    run: Callable[[], object]
    tiles: int
    cosine: float | None = None
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Run it and note the time."""
        wall, cpu = perf_counter(), process_time()
        self.run()
        self.wall_s.append(perf_counter() - wall)
        self.cpu_s.append(process_time() - cpu)

    @property
    def wall(self) -> float:
        """Median wall seconds per tile."""
        return statistics.median(self.wall_s) / self.tiles

    @property
    def cpu(self) -> float:
        """Median CPU seconds per tile."""
        return statistics.median(self.cpu_s) / self.tiles


def official(encoder: nn.Module, tiles: Tensor, precision: Precision) -> Tensor:
    """Run the official forward pass."""
    device, dtype = tiles.device.type, getattr(torch, precision)
    with torch.inference_mode(), torch.autocast(device, dtype, enabled=precision != "float32"):
        tokens: Tensor = encoder(tiles)
    return tokens.float()


def ours(encoder: Encoder, tiles: Tensor) -> Tensor:
    """Run our forward pass."""
    return encoder.start(list(tiles), LEVELS)[LEVELS[0]]


def bare(name: str, run: Callable[[], Tensor], reference: Tensor) -> Row:
    """Time passes without input and output, after a first one that is compared."""
    tokens = run()
    passes = 8 if tokens.is_cuda else 1

    def run_all() -> None:
        for _ in range(passes):
            run()
        if tokens.is_cuda:
            torch.cuda.synchronize()

    return Row(name, run_all, passes * len(tokens), least_cosine(tokens, reference))


def least_cosine(tokens: Tensor, reference: Tensor) -> float:
    """Least cosine over all tokens of (B, C, h, w)."""
    return float(torch.cosine_similarity(tokens.double(), reference.double(), dim=1).min())


def draw_images(folder: Path, count: int) -> dict[str, ImageRecord]:
    """Save pictures and describe them as a manifest does."""
    rng = np.random.default_rng(0)
    records = {}
    for i in range(count):
        path = folder / f"{i}.png"
        if i < PICTURES:
            coarse = Image.fromarray(rng.integers(0, 256, (36, 67, 3)).astype(np.uint8))
            coarse.resize((RAW_PX[1], RAW_PX[0]), Image.Resampling.BICUBIC).save(path)
        else:
            path.hardlink_to(folder / f"{i % PICTURES}.png")
        image_id = f"source/train/{i}"
        records[image_id] = ImageRecord(
            image_id=image_id,
            domain="source",
            split="train",
            image=path.name,
            label=None,
            raw_size_px=RAW_PX,
            resized_size_px=WORKING_PX,
            working_size_px=WORKING_PX,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            class_pixels=None,
            label_sha256=None,
        )
    return records


def embed(
    encoder: Encoder, records: dict[str, ImageRecord], folder: Path, config: EmbedConfig
) -> None:
    """Images in, shards on the disk."""
    spec = StoreSpec(
        domain="source",
        levels={name: Level(8, ARCHITECTURES["vit_b"].channels) for name in LEVELS},
        grid_px=WORKING_PX,
        shard_images=min(SHARD_IMAGES, len(records)),
        codec="float16",
        provenance={},
    )
    entries = [ImageEntry(r.image_id, r.content, r.working_size_px) for r in records.values()]
    with (
        tempfile.TemporaryDirectory(dir=folder) as url,
        StoreWriter(Path(url), spec, entries, LEVELS) as writer,
    ):
        shards = embed_shards(
            writer.pending(), config=config, encoder=encoder, records=records, root=folder
        )
        run_serial(shards, lambda shard: writer.write_shard(shard.task, shard.features()))
        writer.finalise()


def build_rows(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Prepare all that is measured; every encoder has run once when this returns."""
    device = pick_device(options.device, "--device")
    config = EmbedConfig(
        teacher=SamTeacher(kind="sam", architecture=options.architecture, weights="random", seed=0),
        levels=LEVELS,
        domains=("source",),
        splits=("train",),
        overlap=0.125,
        flips=("none",),
        batch_tiles=options.batch,
        device="auto",
        precision="float32",
        compile=False,
        executor="serial",
        workers=None,
        scheduler=None,
        threads=None,
    )
    plain = draw_encoder(ARCHITECTURES[options.architecture], 0).eval().requires_grad_(False)
    for name, value in plain.named_parameters():
        if "pos" in name:
            nn.init.normal_(value, std=0.05)
    records = draw_images(folder, max(1, options.tiles // TILES_PER_IMAGE))
    batch = options.batch
    rows, ends = [], []
    precisions: list[Precision] = [
        p for p in options.precisions if p != "float16" or device.type == "cuda"
    ]
    tiles = torch.randn(batch, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    theirs, there = copy.deepcopy(plain).to(device), tiles.to(device)
    reference = official(theirs, there, "float32")
    for precision in dict.fromkeys(("float32", *precisions)):
        run = partial(official, theirs, there, precision)
        rows.append(bare(f"official {precision}", run, reference))
    for precision in precisions:
        fused = fuse_attention(copy.deepcopy(plain))
        encoder = Encoder(fused, 1024, device, precision, compiled=options.compile)
        rows.append(bare(f"ours {precision}", partial(ours, encoder, there), reference))
        ends.append(
            Row(
                f"ours {precision}, end to end",
                partial(embed, encoder, records, folder, config),
                TILES_PER_IMAGE * len(records),
            )
        )
    return rows + ends


def measure(options: argparse.Namespace) -> list[Row]:
    """Measure all rows in turn, `options.repeats` times."""
    with tempfile.TemporaryDirectory() as folder:
        rows = build_rows(options, Path(folder))
        for _ in range(options.repeats):
            for row in rows:
                row.measure()
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", choices=sorted(GMAC), default="vit_b")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiles", type=int, default=4, help="tiles embedded end to end")
    parser.add_argument("--batch", type=int, default=1, help="tiles per forward pass")
    parser.add_argument("--threads", type=int, default=None, help="cores used on the CPU")
    parser.add_argument("--compile", action="store_true", help="ours through torch.compile")
    precisions = get_args(Precision)
    parser.add_argument("--precisions", nargs="+", choices=precisions, default=precisions)
    options = parser.parse_args()
    with cpu_threads(options.threads):
        rows = measure(options)
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        print(f"{options.architecture}, {where}, {torch.get_num_threads()} CPU threads")
    first = rows[0]
    print("| | s per tile | speed | GMAC/s | CPU s per tile | speed by it | least cosine |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        cosine = "" if row.cosine is None else f"{row.cosine:.6f}"
        print(
            f"| {row.name} | {row.wall:.4g} | {first.wall / row.wall:.2f}x "
            f"| {GMAC[options.architecture] / row.wall:.0f} | {row.cpu:.4g} "
            f"| {first.cpu / row.cpu:.2f}x | {cosine} |"
        )


if __name__ == "__main__":
    main()
