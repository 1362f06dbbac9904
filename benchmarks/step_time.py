"""Seconds of one training step, arm by arm: what SSR costs from the store and with SAM in the loop.

    python -m benchmarks.step_time --student mit_b5 --sam vit_b --crop 512 --repeats 10

a   DAFormer, no regulariser
b   SSR from the store
c   SSR with SAM in the loop as the official code has it: its encoder, float32, on the source crop
    and on the mixed image; `c fused` has our encoder, in the precision of the student
d   as b, features already in memory
p   DAFormer's step ported line by line (ported_step.py), float32

All arms have the same student, images and random choices, and take turns in every round, so that
whatever else the machine does hits them alike; times are medians. Images are read in the step by
all of them, also what of the store a loader process would hide. Peak memory is that of a fresh
process for each arm: the GPU's allocations, or on the CPU the resident set with interpreter,
libraries and data. TFLOP are counted from tables (stages/train/cost.py, stages/embed/cost.py), a
multiplication and an addition as two. The goals: b <= 1.03 d, p >= 1.5 a. SAM's weights are random:
no time depends on them.
"""

# B batch, C channels, h w tokens

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final, cast
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.ported_step import ported_step, prepare_port
from stages.device import cpu_threads, pick_device
from stages.embed.architectures import ARCHITECTURES
from stages.embed.cost import macs_per_tile
from stages.embed.teacher import Teacher, draw_encoder
from stages.prepare import stage as prepare
from stages.prepare.config import PrepareConfig
from stages.prepare.manifest import Domain, Manifest
from stages.train import step as step_module
from stages.train.config import TrainConfig
from stages.train.cost import step_macs
from stages.train.dataset import Batch, TrainingCrops, batches
from stages.train.draws import Draws, draw_step
from stages.train.model.backbone import BACKBONES
from stages.train.model.regularizer import Regularizer
from stages.train.model.student import build_student, seeded
from stages.train.networks import ImageNetReference, Models, without_noise
from stages.train.optimizer import build_optimizer
from stages.train.step import Mixed, mix_stored, train_step
from store.read import FeatureReader
from store.spec import ImageEntry, StoreSpec
from store.write import StoreWriter

ARMS: Final = {
    "a": "DAFormer",
    "b": "SSR from the store",
    "c": "SSR, official SAM in the loop",
    "c fused": "SSR, our SAM in the loop",
    "d": "SSR, features in memory",
    "p": "DAFormer, ported",
}
DOMAINS: Final[tuple[Domain, ...]] = ("source", "target")
LEVEL: Final = "stride8"
IMAGES: Final = 8
PARTS: Final = (
    "data wait",
    "EMA update",
    "EMA forward",
    "student forward",
    "regulariser",
    "losses",
    "backward",
    "optimiser",
)


class MemoryReader(FeatureReader):
    """Windows of features that lie in memory: level -> image id -> (C, h, w)."""

    def __init__(self, held: Mapping[str, NDArray[Any]]) -> None:
        self._held = held

    def __reduce__(self) -> tuple[type["MemoryReader"], tuple[Any]]:
        return MemoryReader, (self._held,)

    def window(self, image_id: str, level: str, y: int, x: int, h: int, w: int) -> NDArray[Any]:
        """Copy the tokens (C, h, w) from (y, x) on."""
        return self._held[image_id][:, y : y + h, x : x + w].copy()


@dataclass
class Arm:
    """One line of the table.

    Attributes:
        step: runs the step of an iteration, its data included.
        models: its networks.
        seconds: of each repeat.
    """

    step: Callable[[int], None]
    models: Models
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median seconds of a step."""
        return statistics.median(self.seconds)


def configure(options: argparse.Namespace, arm: str) -> TrainConfig:
    """Give the paper's settings to an arm."""
    ported = arm == "p"
    return TrainConfig.model_validate(
        {
            "seed": 0,
            "init": None,
            "iterations": 10**6,
            "batch_size": options.batch,
            "crop_px": options.crop,
            "crop_align_px": 8,
            "crop_max_class_share": 0.75,
            "flip_probability": 0.5,
            "student": {
                "backbone": options.student,
                "weights": "random",
                "norm_eps": 1e-6,
                "drop_path": 0.1,
                "head": "daformer",
                "head_channels": 256,
                "dropout": 0.1,
            },
            "regularizer": {
                "on": [] if arm in "ap" else ["source", "mixed"],
                "levels": [LEVEL] * 4,
            },
            "self_training": {
                "start": 0,
                "ema_decay": 0.999,
                "threshold": 0.968,
                "ignore_top_px": 15,
                "ignore_bottom_px": 120,
                "class_pool": "batch",
                "jitter_probability": 0.8,
                "jitter_strength": 0.2,
                "blur_probability": 0.5,
            },
            "masking": None,
            "rare_class_sampling": None,
            "feature_distance": {"weight": 0.005, "classes": ["by id"], "min_share": 0.75},
            "optimizer": {
                "lr": 6e-5,
                "head_lr_factor": 10.0,
                "regularizer_lr_factor": 1.0,
                "weight_decay": 0.01,
                "betas": [0.9, 0.999],
                "warmup_iterations": 1500,
                "warmup_ratio": 1e-6,
                "power": 1.0,
            },
            "device": "auto",
            "precision": "float32" if ported else options.precision,
            "channels_last": options.channels_last and not ported,
            "compile": options.compile and not ported,
            "activation_checkpointing": options.activation_checkpointing and not ported,
            "micro_batch_size": None,
            "threads": options.threads,
            "workers": options.workers,
            "prefetch": 2,
            "log_every": 50,
            "checkpoint_every": 1000,
            "validate_every": 0,
            "sync_batch_norm": False,
        }
    )


def draw_data(folder: Path, options: argparse.Namespace) -> None:
    """Draw images of twice the crop's width, and write stores of random features beside them."""
    size = {"width_px": 2 * options.crop, "height_px": options.crop, "fit_px": None}
    drawn = {"kind": "drawn", "root": str(folder / "drawn"), "train": IMAGES, "val": 1, **size}
    source, target = {**drawn, "style": "day", "seed": 1}, {**drawn, "style": "dusk", "seed": 2}
    prepare.run(
        PrepareConfig.model_validate({"source": source, "target": target}),
        at_least_px=options.crop,
        skip_bad=False,
        out=folder / "manifest.parquet",
        cache=folder / "scan.parquet",
        progress=lambda *_: None,
    )
    manifest, channels = Manifest.read(folder / "manifest.parquet"), channels_of(options)
    rng = np.random.default_rng(0)
    for domain in DOMAINS:
        entries = [
            ImageEntry(record.image_id, record.content, record.working_size_px)
            for record in manifest.select(domain=domain, split="train")
        ]
        grid_px = entries[0].working_size_px
        shape = (channels, grid_px[0] // 8, grid_px[1] // 8)
        held = {entry.image_id: rng.standard_normal(shape, dtype=np.float32) for entry in entries}
        np.save(folder / f"{domain}.npy", np.stack([held[e.image_id] for e in entries]))
        spec = StoreSpec(domain, channels, grid_px, 4, "float16", {})
        with StoreWriter(folder / "features", spec, entries, [LEVEL]) as writer:
            for task in writer.pending():
                names = [image.image_id for image in task.images if image is not None]
                writer.write_shard(task, {LEVEL: {name: held[name] for name in names}})
            path = writer.finalise().path
        (folder / f"{domain}.path").write_text(path)


def channels_of(options: argparse.Namespace) -> int:
    """Channels of the teacher's features."""
    return ARCHITECTURES[options.sam].channels


def readers_of(arm: str, folder: Path, manifest: Manifest) -> dict[Domain, FeatureReader]:
    """Open what the arm reads features from."""
    if arm == "b":
        paths = {domain: (folder / f"{domain}.path").read_text() for domain in DOMAINS}
        return {domain: FeatureReader(folder / "features" / path) for domain, path in paths.items()}
    if arm == "d":
        readers: dict[Domain, FeatureReader] = {}
        for domain in DOMAINS:
            records = manifest.select(domain=domain, split="train")
            features = np.load(folder / f"{domain}.npy").astype(np.float16)
            held = {record.image_id: features[row] for row, record in enumerate(records)}
            readers[domain] = MemoryReader(held)
        return readers
    return {}


def build_models(config: TrainConfig, options: argparse.Namespace, device: torch.device) -> Models:
    """Build the networks; the same weights for every arm."""
    student = build_student(config.student, num_classes=options.classes, seed=0)
    regularizer = None
    if config.regularizer.on:
        heads = BACKBONES[config.student.backbone].heads
        with seeded(0):
            regularizer = Regularizer(
                student.channels, channels_of(options), heads, config.regularizer.levels
            )
    reference = deepcopy(student.backbone).eval().requires_grad_(False)
    things = range(options.classes // 2, options.classes)
    models = Models(
        student, without_noise(deepcopy(student)), regularizer, ImageNetReference(reference, things)
    )
    models.settle(config, device)
    return models


def build_arm(arm: str, folder: Path, options: argparse.Namespace) -> Arm:
    """Prepare an arm; nothing has run when this returns."""
    device, config = pick_device(options.device, "--device"), configure(options, arm)
    manifest = Manifest.read(folder / "manifest.parquet")
    options.classes = len(manifest.classes)
    models = build_models(config, options, device)
    # Differs from training: arms without a store are not asked for windows of it.
    without = config.model_copy(
        update={"regularizer": config.regularizer.model_copy(update={"on": ()})}
    )
    crops = TrainingCrops(
        config=config if arm in "bd" else without,
        manifest=manifest,
        roots=dict.fromkeys(DOMAINS, folder / "drawn"),
        readers=readers_of(arm, folder, manifest),
    )
    loader = batches(crops, config, start=0, device=device)
    encode = encoder_of(arm, options, device)
    optimizer = (
        prepare_port(models, config)
        if arm == "p"
        else build_optimizer(models.student, models.regularizer, config.optimizer)
    )

    def run(iteration: int) -> None:
        with clock("data wait"):
            samples = next(loader)
        draws = draw_step(config, samples.source_label, iteration)
        assert draws is not None
        batch = samples.to(device)
        torch.manual_seed(iteration)
        if arm == "p":
            ported_step(models, batch, draws, config=config, iteration=iteration)
        else:
            our_step(models, batch, draws, config, iteration, encode)
        with clock("optimiser"):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return Arm(run, models)


def our_step(
    models: Models,
    batch: Batch,
    draws: Draws,
    config: TrainConfig,
    iteration: int,
    encode: Callable[[Tensor], Tensor] | None,
) -> None:
    """Run `train_step`, with features that `encode` computes where there is such a thing."""
    if encode is None:
        train_step(models, batch, draws, config=config, iteration=iteration, mixer=mix_stored)
        return
    batch.source_features[LEVEL] = encode(batch.source_image)

    def see_mixed(mixed: Mixed, _: Batch) -> Mapping[str, Tensor]:
        return {LEVEL: encode(mixed.image)}

    train_step(models, batch, draws, config=config, iteration=iteration, mixer=see_mixed)


def encoder_of(
    arm: str, options: argparse.Namespace, device: torch.device
) -> Callable[[Tensor], Tensor] | None:
    """Return what encodes images in the step; official SSR scales them to SAM's side."""
    if not arm.startswith("c"):
        return None
    architecture = ARCHITECTURES[options.sam]
    side, encoder = architecture.side_px, draw_encoder(architecture, 0)
    half = arm == "c fused" and options.precision == "bfloat16"
    if arm == "c fused":
        encoder = Teacher(
            encoder, architecture=options.sam, trained=False, device=device, precision="float32"
        ).encoder
    encoder = encoder.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        images = F.interpolate(images, (side, side), mode="bilinear", align_corners=False)
        with clock("SAM"), torch.autocast(device.type, torch.bfloat16, enabled=half):
            return cast(Tensor, encoder(images)).float()

    return encode


CLOCK: dict[str, float] = defaultdict(float)
"""Seconds by part, while `--profile` runs."""

_profiled: list[torch.device] = []


@contextmanager
def clock(part: str) -> Iterator[None]:
    """Add the seconds inside to a part, if anybody wants to know."""
    if not _profiled:
        yield
        return
    wait(_profiled[0])
    started = perf_counter()
    yield
    wait(_profiled[0])
    CLOCK[part] += perf_counter() - started


def clocked(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Measure every call of a function."""

    def measured(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        with clock(part):
            return function(*args, **kwargs)

    return measured


def wait(device: torch.device) -> None:
    """Let the GPU finish."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def profile(arm: Arm, device: torch.device, iterations: range) -> dict[str, float]:
    """Median seconds of each part of our step; `rest` is mixing, augmentation and draws."""
    student, ema, regularizer = arm.models.student, arm.models.ema, arm.models.regularizer
    networks: list[tuple[object, str, str]] = [
        (ema, "forward", "EMA forward"),
        (student, "features", "student forward"),
        (student, "classify", "student forward"),
        (step_module, "update_ema", "EMA update"),
        (step_module, "segmentation_loss", "losses"),
        (step_module, "_feature_distance", "losses"),
        (Tensor, "backward", "backward"),
    ]
    if regularizer is not None:
        networks.append((regularizer, "forward", "regulariser"))
    rounds: dict[str, list[float]] = defaultdict(list)
    patches = [patch.object(o, n, clocked(p, getattr(o, n))) for o, n, p in networks]
    for one in patches:
        one.start()
    _profiled.append(device)
    try:
        for iteration in iterations:
            CLOCK.clear()
            started = perf_counter()
            arm.step(iteration)
            wait(device)
            parts = dict(CLOCK)
            parts["rest"] = perf_counter() - started - sum(parts.values())
            for part, seconds in parts.items():
                rounds[part].append(seconds)
    finally:
        _profiled.clear()
        for one in patches:
            one.stop()
    return {part: statistics.median(seconds) for part, seconds in rounds.items()}


def port_error(folder: Path, options: argparse.Namespace) -> float:
    """Relative distance of the port's gradients from those of `train_step`, both in float32."""
    plain = argparse.Namespace(**vars(options) | {"precision": "float32", "workers": 0})
    found = []
    for arm in ("a", "p"):
        built, config = build_arm(arm, folder, plain), configure(plain, arm)
        for module in [*built.models.student.modules()]:
            if type(module).__name__ in ("Dropout", "Dropout2d", "SegformerDropPath"):
                module.eval()
        device = pick_device(options.device, "--device")
        crops = TrainingCrops(
            config=config,
            manifest=Manifest.read(folder / "manifest.parquet"),
            roots=dict.fromkeys(DOMAINS, folder / "drawn"),
            readers={},
        )
        samples = next(iter(batches(crops, config, start=0, device=device)))
        draws = draw_step(config, samples.source_label, 0)
        assert draws is not None
        if arm == "p":
            ported_step(built.models, samples.to(device), draws, config=config, iteration=0)
        else:
            our_step(built.models, samples.to(device), draws, config, 0, None)
        found.append(gradient_vector(built.models.student))
    ours, theirs = found
    return float((theirs - ours).norm() / ours.norm())


def gradient_vector(module: nn.Module) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def peak_bytes(device: torch.device) -> int:
    """Most memory that this process has held: on the GPU, or resident in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_memory(arm: str, folder: Path, options: argparse.Namespace) -> int:
    """Run two steps of an arm in a fresh process, and return its peak."""
    given = [f"--{k.replace('_', '-')}={v}" for k, v in vars(options).items() if k in PASSED and v]
    flags = [f"--{k.replace('_', '-')}" for k in FLAGS if getattr(options, k)]
    command = [sys.executable, "-m", "benchmarks.step_time", *given, *flags]
    command += [f"--memory-of={arm}", f"--folder={folder}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


PASSED: Final = ("student", "sam", "crop", "batch", "device", "precision", "threads", "workers")
FLAGS: Final = ("channels_last", "compile", "activation_checkpointing")


def macs_of(arm: str, options: argparse.Namespace) -> tuple[int, int]:
    """Multiply-accumulates of a step: of the student and all around it, and of SAM."""
    config = configure(options, arm)
    pretrained = config.student.model_copy(update={"weights": "with feature distance"})
    own = step_macs(
        config.model_copy(update={"student": pretrained}),
        num_classes=options.classes,
        teacher_channels=channels_of(options),
    )
    tiles = 2 * options.batch if arm.startswith("c") else 0
    return own, tiles * macs_per_tile(ARCHITECTURES[options.sam])


def show(arms: Mapping[str, Arm], memory: Mapping[str, int], options: argparse.Namespace) -> None:
    """Print the table and the ratios."""
    print("| | arm | s per step | min - max | by a | by b | TFLOP | of SAM | peak GB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, arm in arms.items():
        own, sam = macs_of(name, options)
        ratios = [f"{arm.median / arms[base].median:.2f}x" if base in arms else "" for base in "ab"]
        peak = f"{memory[name] / 1e9:.2f}" if name in memory else ""
        print(
            f"| {name} | {ARMS[name]} | {arm.median:.4g} | {min(arm.seconds):.4g} - "
            f"{max(arm.seconds):.4g} | {' | '.join(ratios)} | {2 * (own + sam) / 1e12:.3g} "
            f"| {2 * sam / 1e12:.3g} | {peak} |"
        )

    def paired(one: str, other: str) -> str:
        pairs = zip(arms[one].seconds, arms[other].seconds, strict=True)
        return f"{statistics.median(a / b for a, b in pairs):.3f}"

    for one, other, goal in (
        ("b", "d", "; goal: at most 1.03"),
        ("c", "b", ""),
        ("p", "a", "; goal: at least 1.5"),
    ):
        if one in arms and other in arms:
            print(f"\n{one} / {other} = {paired(one, other)}, median over rounds{goal}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--student", choices=sorted(BACKBONES), default="mit_b5")
    parser.add_argument("--sam", choices=sorted(ARCHITECTURES), default="vit_b")
    parser.add_argument("--crop", type=int, default=512, help="px, a multiple of 32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2, help="steps of each arm before")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=None, help="cores used on the CPU")
    parser.add_argument("--workers", type=int, default=0, help="loader processes of each arm")
    parser.add_argument("--profile", action="store_true", help="time by part, of a, b and d")
    parser.add_argument("--no-memory", action="store_true", help="start no process for each arm")
    parser.add_argument("--memory-of", choices=list(ARMS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.classes = 0
    return options


def main() -> None:
    """Measure and print."""
    options = parse()
    device = pick_device(options.device, "--device")
    with tempfile.TemporaryDirectory() as temporary, cpu_threads(options.threads):
        if options.memory_of:
            arm = build_arm(options.memory_of, options.folder, options)
            for iteration in range(2):
                arm.step(iteration)
            print(json.dumps(peak_bytes(device)))
            return
        folder = Path(temporary)
        draw_data(folder, options)
        memory = {}
        if not options.no_memory:
            memory = {name: measure_memory(name, folder, options) for name in options.arms}
        if "p" in options.arms:
            print(f"The port's gradients are {port_error(folder, options):.1e} from ours\n")
        arms = {name: build_arm(name, folder, options) for name in options.arms}
        for iteration in range(options.warmup + options.repeats):
            for arm in arms.values():
                wait(device)
                started = perf_counter()
                arm.step(iteration)
                wait(device)
                if iteration >= options.warmup:
                    arm.seconds.append(perf_counter() - started)
        where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        print(
            f"{options.student}, SAM {options.sam}, {options.crop} px, batch {options.batch}, "
            f"{options.precision}, {where}, {torch.get_num_threads()} CPU threads, "
            f"{options.repeats} rounds\n"
        )
        show(arms, memory, options)
        if options.profile:
            done = options.warmup + options.repeats
            rounds = range(done, done + options.repeats)
            names = [name for name in arms if name in "abd"]
            found = {name: profile(arms[name], device, rounds) for name in names}
            print("\n| s per step | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
            for part in (*PARTS, "rest"):
                cells = [f"{found[name].get(part, 0):.4g}" for name in names]
                print(f"| {part} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
