"""Steps, tiles and a training by the command line, as a GPU runs them.

    python -m benchmarks.gpu

takes under five minutes on an H200 and downloads nothing: images are drawn, weights random. Each
row of Markdown is printed as soon as it is there. `--only` chooses parts:

steps   MiT-B5, DAFormer head, 512 px, 2 + 2 images. What runs is the loop of `ssr train` itself,
        loader, checks and curves included, but for the ported step (`benchmarks/step_time`).
embed   tiles per second: the official encoder and ours, bare and to the store
cli     `ssr prepare`, `embed` and `train` of the same network, 60 steps

Steps are timed in blocks, between which alone the GPU is waited for: ms are medians over blocks.
`row` is the step that ends a row of the curves: it runs kernel by kernel, and the host waits.
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import torch

from benchmarks.step_time.arms import Encode, build_arm, build_models, device_of, encoder_of
from benchmarks.step_time.clock import wait
from benchmarks.step_time.data import crops_of, draw_data, read_manifest
from benchmarks.step_time.setting import ARMS, LEVEL, Setting, configure
from stages.device import float32_on_gpu
from stages.embed.teachers.sam_sizes import ArchitectureName
from stages.train import crops, loop
from stages.train.crops import Batch
from stages.train.models import Models
from stages.train.monitor import Curves
from stages.train.state import TrainingState, build_optimizer
from stages.train.step import Draws, StepResult, mix_stored, train_step

ROOT: Final = Path(__file__).resolve().parents[1]


class Row(NamedTuple):
    """One line of the table of steps: an arm of `benchmarks.step_time`, and how it computes."""

    arm: str
    precision: str
    graphs: str
    matmul: str = "highest"
    sam: ArchitectureName = "vit_b"
    repeats: bool = False

    @property
    def name(self) -> str:
        """What the table calls it."""
        seen = f", {self.sam}" if self.arm[0] == "c" else ""
        return f"{ARMS[self.arm]}{seen}{', repeatable' if self.repeats else ''}"


ROWS: Final = (
    Row("b", "bfloat16", "auto"),
    Row("p", "float32", "off", "default"),
    Row("d", "bfloat16", "auto"),
    Row("c fused", "bfloat16", "auto"),
    Row("c", "bfloat16", "auto"),
    Row("c fused", "bfloat16", "auto", sam="vit_h"),
    Row("b", "bfloat16", "auto", repeats=True),
    Row("b", "bfloat16", "off"),
    Row("b", "float32", "off"),
    Row("b", "float32", "auto"),
    Row("b", "float32", "auto", "tf32"),
    Row("a", "bfloat16", "auto"),
    Row("b mic", "bfloat16", "auto"),
    Row("c", "float32", "off", "default"),
    Row("a", "float32", "off"),
)
"""In the order of their weight, should the time run out."""


class Times(NamedTuple):
    """Milliseconds of a step; that of the step that ends a row is nan for the port."""

    step: float
    row: float
    data: float


class Blocks:
    """A clock of steps: a warm-up, then blocks of steps, then one step that ends a row.

    Args:
        device: Where they run.
        graphs: Longer blocks, after the steps that record a graph.
        tiny: As short as can be.
    """

    def __init__(self, device: torch.device, *, graphs: bool, tiny: bool) -> None:
        self._device = device
        warmup, self._size, blocks = (7, 10, 5) if graphs else (3, 3, 3)
        if tiny:
            warmup, self._size, blocks = 1, 1, 2
        self._ends = range(warmup, warmup + blocks * self._size + 1, self._size)
        self._marks: list[float] = []
        self._waited = 0.0

    @property
    def steps(self) -> int:
        """All of them."""
        return self._ends[-1] + 1

    def timed(self, loader: Iterator[Batch]) -> Iterator[Batch]:
        """Time what the host waits for batches."""
        while True:
            started = perf_counter()
            batch = next(loader)
            if self._marks:
                self._waited += perf_counter() - started
            yield batch

    def done(self, steps: int) -> bool:
        """Note the time where a block or everything ends; tell whether everything has."""
        if steps in self._ends or steps == self.steps:
            wait(self._device)
            self._marks.append(perf_counter())
        return steps == self.steps

    @property
    def times(self) -> Times:
        """Medians over the blocks."""
        *blocks, row = (1e3 * (b - a) for a, b in zip(self._marks, self._marks[1:], strict=False))
        step = statistics.median(blocks) / self._size
        return Times(step, row, 1e3 * self._waited / (self._ends[-1] + 1 - self._ends[0]))


class EnoughError(Exception):
    """Ends the loop."""


def time_row(row: Row, folder: Path, setting: Setting, *, tiny: bool) -> Times:
    """Run the steps of a row."""
    device = device_of(setting)
    blocks = Blocks(device, graphs=row.graphs == "auto", tiny=tiny)
    if row.arm == "p":
        arm = build_arm(row.arm, folder, setting)
        arm.load = blocks.timed(iter(arm.load, None)).__next__
        for iteration in range(blocks.steps):
            arm.step(iteration)
            blocks.done(iteration + 1)
        return blocks.times._replace(row=float("nan"))
    steps = blocks.steps
    config = configure(setting, row.arm).model_copy(
        update={
            "cuda_graphs": row.graphs,
            "iterations": steps + 1,  # the last one would write a checkpoint
            "log_every": steps,
            "checkpoint_every": steps + 1,
        }
    )
    models = build_models(config, setting, len(read_manifest(folder).classes), device)
    optimizer = build_optimizer(models.student, models.regularizer, config.optimizer)
    encode = encoder_of(row.arm, setting, device)

    def progress(done: int, *_: object) -> None:
        if blocks.done(done):
            raise EnoughError

    with ExitStack() as stack:
        stack.enter_context(
            patch.object(loop, "batches", lambda *a, **k: blocks.timed(crops.batches(*a, **k)))
        )
        if encode is not None:
            stack.enter_context(patch.object(loop, "train_step", seeing(encode)))
        stack.enter_context(suppress(EnoughError))
        loop.fit(
            config,
            TrainingState(models, optimizer, Curves()),
            crops_of(row.arm, folder, setting),
            device=device,
            folder=folder,
            fingerprint="",
            progress=progress,
            classes=[],
            mixer=mix_stored if encode is None else lambda _, mixed, __: {LEVEL: encode(mixed)},
        )
    return blocks.times


def seeing(encode: Encode) -> Callable[..., StepResult]:
    """Return `train_step` with a teacher that sees the source first; the mixer sees mixed images.

    It runs beside the graph of the step: the official encoder cannot be recorded.
    """

    def step(models: Models, batch: Batch, draws: Draws | None, **given: Any) -> StepResult:  # noqa: ANN401
        batch.source_features[LEVEL] = encode(batch.source_image)
        return train_step(models, batch, draws, **given)

    return step


@contextmanager
def computing(row: Row) -> Iterator[None]:
    """Compute as a row says; float32 by `default` is PyTorch's: convolutions in TF32."""
    torch.use_deterministic_algorithms(row.repeats)
    with nullcontext() if row.matmul == "default" else float32_on_gpu(row.matmul):  # type: ignore[arg-type]
        yield


def show_steps(folder: Path, options: argparse.Namespace) -> None:
    """Time all rows, and print each, and what it is by the first."""
    setting = Setting(
        student="mit_tiny" if options.tiny else "mit_b5",
        sam="tiny" if options.tiny else "vit_b",
        crop=64 if options.tiny else 512,
        batch=2,
        device=options.device,
        precision="float32",
        compile=False,
        activation_checkpointing=False,
        threads=None,
        workers=options.workers,
    )
    device = device_of(setting)
    draw_data(folder, setting)
    columns = "arm", "precision", "float32 is", "graphs", "ms", "by the first", "row ms", "data ms"
    show("| " + " | ".join((*columns, "GB used", "GB taken")) + " |")
    show("|" + "---|" * (len(columns) + 2))
    first = 0.0
    for row in ROWS:
        gc.collect()  # networks and optimiser know each other
        torch.cuda.empty_cache()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        chosen = replace(setting, precision=row.precision, sam="tiny" if options.tiny else row.sam)
        try:
            with computing(row):
                times = time_row(row, folder, chosen, tiny=options.tiny)
        except RuntimeError as error:  # the other rows go on
            show(f"| {row.name} | {row.precision} | {row.matmul} | {row.graphs} | {error!r:.500} |")
            continue
        first = first or times.step
        memory = ""
        if device.type == "cuda":
            peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            memory = " | ".join(f"{peak / 1e9:.1f}" for peak in peaks)
        show(
            f"| {row.name} | {row.precision} | {row.matmul} | {row.graphs} | {times.step:.1f} "
            f"| {times.step / first:.2f} | {times.row:.0f} | {times.data:.1f} | {memory or '|'} |"
        )


def show_embed(_: Path, options: argparse.Namespace) -> None:
    """Time the encoders."""
    sizes = {"vit_b": (8, 1000, 2), "vit_h": (4, 120, 1)}
    if options.tiny:
        sizes = {"vit_b": (1, 2, 1)}
    for name, (batch, tiles, repeats) in sizes.items():
        command = ["-m", "benchmarks.embed_throughput", "--architecture", name]
        command += ["--device", options.device, "--precisions", "bfloat16", "--batch", str(batch)]
        command += ["--tiles", str(tiles), "--repeats", str(repeats)]
        call(command)


def show_cli(folder: Path, options: argparse.Namespace) -> None:
    """Train by the command line, on drawn data and a tiny teacher."""
    keys = {
        **{f"prepare.{domain}.width_px": 1024 for domain in ("source", "target")},
        **{f"prepare.{domain}.height_px": 512 for domain in ("source", "target")},
        **{f"prepare.{domain}.train": 8 for domain in ("source", "target")},
        **{f"prepare.{domain}.val": 2 for domain in ("source", "target")},
        "prepare.pad_to_px": 512,
        "embed.teacher.weights": ROOT / "examples" / "drawn" / "teacher.pth",
        "train.init": "null",
        "train.iterations": 60,
        "train.batch_size": 2,
        "train.crop_px": 512,
        "train.student.backbone": "mit_b5",
        "train.student.head": "daformer",
        "train.student.head_channels": 256,
        "train.precision": "bfloat16",
        "train.workers": options.workers,
        "train.log_every": 50,
        "train.validate_every": 0,
        "train.device": options.device,
    }
    if options.tiny:
        keys |= {f"prepare.{domain}.width_px": 128 for domain in ("source", "target")}
        keys |= {f"prepare.{domain}.height_px": 64 for domain in ("source", "target")}
        keys |= {"prepare.pad_to_px": 64, "train.crop_px": 64, "train.iterations": 4}
        keys |= {"train.student.backbone": "mit_tiny", "train.student.head_channels": 16}
    ssr = ["-m", "pipeline.cli"]
    call([*ssr, "init", "--preset", "drawn"], folder)
    chosen = [part for key, value in keys.items() for part in ("-S", f"{key}={value}")]
    for stage in ("prepare", "embed", "train"):
        call([*ssr, stage, *chosen], folder)


def show(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def call(arguments: list[str], folder: Path | None = None) -> None:
    """Run Python here or in a folder; what it prints is the table."""
    started = perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder or ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        check=False,
    )
    show(f"{' '.join(arguments[1:3])}: {perf_counter() - started:.0f} s, exit {done.returncode}")


PARTS: Final = {"steps": show_steps, "embed": show_embed, "cli": show_cli}


def main() -> None:
    """Run the parts, each in a temporary folder of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--workers", type=int, default=8, help="loader processes")
    parser.add_argument("--tiny", action="store_true", help="networks of a test, few steps")
    options = parser.parse_args()
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # sums in one order, for `repeatable`
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    show(f"{where}, torch {torch.__version__}")
    for part in options.only:
        show(f"\n## {part}\n")
        started = perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](Path(folder), options)
        show(f"\n{part}: {perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
