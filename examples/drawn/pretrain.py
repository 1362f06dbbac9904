"""Pretraining of a tiny teacher: to the drawn world what SAM is to photos, in minutes on a core.

The official encoder learns from drawn scenes in the wide style. It never meets the looks of the
targets (`examples.drawn.world.wide`), and no name of a class (`examples.drawn.objectives`).

    python -m examples.drawn.pretrain --out teacher.pth

takes some seven minutes on one core, which is all that it uses. Name the file in
embed.teacher.weights.
"""

# B crops, S pixels of a crop's side

import argparse
import math
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from examples.drawn.muon import Muon
from examples.drawn.objectives import Heads, Losses, targets_of
from examples.drawn.scenes import Progress, Scenes
from stages.device import cpu_threads
from stages.embed.task import teacher_input
from stages.embed.teachers.sam_encoder import PREFIX, draw_encoder, hash_weights
from stages.embed.teachers.sam_sizes import ARCHITECTURES, Architecture
from stages.prepare.geometry import Size
from store.atomic import write_bytes
from store.errors import ConfigError, SSRError

FIRST_WORLD: Final = 1_000_000
"""Worlds are counted from here, so that none is also a world to train or to measure on."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a teacher is pretrained.

    Attributes:
        architecture: What is pretrained.
        stride: Of the level whose tiles it is to know: a crop of S pixels is one tile of it.
        size_px: Height and width of the scenes.
        scenes: How many there are.
        views: Looks of each.
        iterations: Steps.
        batch: Crops per step.
        lr: Highest learning rate of AdamW; it rises linearly, then falls as half a cosine.
        muon_lr: Likewise of Muon, which trains the matrices of the blocks.
        warmup: Share of the steps in which it rises.
        weight_decay: Of both.
        clip: Largest norm of the gradient.
    """

    architecture: Architecture
    stride: int
    size_px: Size
    scenes: int
    views: int
    iterations: int
    batch: int
    lr: float
    muon_lr: float
    warmup: float
    weight_decay: float
    clip: float


RECIPE: Final = Recipe(
    architecture=ARCHITECTURES["tiny"],
    stride=8,
    size_px=(128, 256),
    scenes=1200,
    views=2,
    iterations=500,
    batch=16,
    lr=2e-3,
    muon_lr=1e-2,
    warmup=0.08,
    weight_decay=0.05,
    clip=1.0,
)
"""What made `teacher.pth`."""


def run(recipe: Recipe, *, seed: int, out: Path, progress: Progress) -> str:
    """Draw scenes, pretrain an encoder, and write its weights in the layout of SAM's checkpoints.

    Computes with one thread: on one machine, equal arguments give equal weights.

    Args:
        recipe: How.
        seed: Of the world, initial weights, crops and places.
        out: File to write.
        progress: Called after each scene and each step.

    Returns:
        SHA-256 of the weights' values, as the store has it.

    Raises:
        ConfigError: If the file is there already, or the package `segment_anything` is not.
    """
    if out.exists():
        raise ConfigError(f"{out}: is there already; remove it or name another file")
    if not out.parent.is_dir():
        raise ConfigError(f"{out.parent}: there is no such folder; make it, or name another file")
    with cpu_threads(1):
        scenes = Scenes.draw(
            seed=FIRST_WORLD + seed,
            scenes=recipe.scenes,
            views=recipe.views,
            size_px=recipe.size_px,
            progress=progress,
        )
        encoder = pretrain(scenes, recipe, seed=seed, progress=progress)
    return save_encoder(encoder, out)


def pretrain(scenes: Scenes, recipe: Recipe, *, seed: int, progress: Progress) -> nn.Module:
    """Pretrain an encoder on crops of scenes, with heads that are thrown away.

    Args:
        scenes: What it sees.
        recipe: How.
        seed: Of initial weights, crops and places.
        progress: Called after each step; says how large the loss is.

    Returns:
        The official `ImageEncoderViT`.
    """
    architecture = recipe.architecture
    encoder = draw_encoder(architecture, seed)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        heads = Heads(architecture.channels)
        # SAM begins with positions of 0, as it takes them over from MAE
        nn.init.trunc_normal_(encoder.get_parameter("pos_embed"), std=0.02)
    parameters = [*encoder.parameters(), *heads.parameters()]
    matrices = _matrices(encoder)
    known = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in parameters if id(parameter) not in known]
    adamw = torch.optim.AdamW(others, weight_decay=recipe.weight_decay)
    muon = Muon(matrices, momentum=0.95, weight_decay=recipe.weight_decay)
    encoder.train()
    for step in range(recipe.iterations):
        losses = _losses(encoder, heads, scenes, recipe, np.random.default_rng([seed, step]))
        losses.total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, recipe.clip)
        scale = _lr_scale(step / recipe.iterations, recipe)
        adamw.param_groups[0]["lr"] = scale * recipe.lr
        adamw.step()
        adamw.zero_grad()
        muon.step(scale * recipe.muon_lr)
        sizes = ", ".join(f"{name} {size.item():.3f}" for name, size in losses._asdict().items())
        progress(step + 1, recipe.iterations, f"pretraining: {sizes}")
    return encoder.eval()


def save_encoder(encoder: nn.Module, path: Path) -> str:
    """Write weights as float16 under the names of SAM's checkpoints; equal weights, equal bytes.

    Returns:
        SHA-256 of the values in the file.
    """
    halves = {name: tensor.half() for name, tensor in encoder.state_dict().items()}
    file = BytesIO()  # not the path: torch would write its name into the archive
    torch.save({f"{PREFIX}{name}": tensor for name, tensor in halves.items()}, file)
    write_bytes(path, file.getvalue())
    return hash_weights(halves)


def _losses(
    encoder: nn.Module, heads: Heads, scenes: Scenes, recipe: Recipe, rng: np.random.Generator
) -> Losses:
    """Draw a batch of crops and ask for all objectives."""
    architecture, stride = recipe.architecture, recipe.stride
    side_px = architecture.side_px * stride // architecture.patch_px  # S
    crops = [scenes.crop(rng, side_px=side_px, align_px=stride) for _ in range(recipe.batch)]
    inputs = [
        teacher_input(
            torch.from_numpy(crop.pixels),
            stride=stride,
            side_px=architecture.side_px,
            patch_px=architecture.patch_px,
        )
        for crop in crops
    ]
    targets = targets_of(np.stack([crop.masks for crop in crops]), rng, token_px=stride)
    tokens: Tensor = encoder(torch.stack(inputs))  # (B, C, h, h)
    losses: Losses = heads(tokens, targets)
    return losses


def _matrices(encoder: nn.Module) -> list[nn.Parameter]:
    """Return the matrices of the transformer's blocks, without their tables of positions."""
    return [
        parameter
        for name, parameter in encoder.named_parameters()
        if name.startswith("blocks.") and parameter.ndim == 2 and "rel_pos" not in name
    ]


def _lr_scale(done: float, recipe: Recipe) -> float:
    """Scale the learning rates after a share of the steps: up linearly, down by a cosine."""
    rising = min(1.0, done / recipe.warmup + 0.01)  # not 0 at the first step
    return rising * 0.5 * (1 + math.cos(math.pi * done))


def main() -> None:
    """Run the command line; a mistake is one line and exit code 2."""
    from pipeline.console import console, progress

    parser = argparse.ArgumentParser(description="Pretrain a tiny teacher on drawn scenes.")
    parser.add_argument("--out", type=Path, required=True, help="File for the weights.")
    parser.add_argument("--seed", type=int, default=0, help="Of scenes, weights and crops.")
    parser.add_argument("--iterations", type=int, default=RECIPE.iterations, help="Steps.")
    parser.add_argument("--scenes", type=int, default=RECIPE.scenes, help="Streets to draw.")
    options = parser.parse_args()
    for name, least, most in (
        ("seed", 0, 2**32 - 1),
        ("iterations", 1, 10_000_000),
        ("scenes", 1, 1_000_000),
    ):
        if not least <= getattr(options, name) <= most:
            parser.error(f"--{name}: give {least} to {most}")
    recipe = replace(RECIPE, iterations=options.iterations, scenes=options.scenes)
    try:
        with progress("pretrain", "steps") as report:
            sha256 = run(recipe, seed=options.seed, out=options.out, progress=report)
    except (SSRError, OSError) as error:
        parser.error(str(error))
    console.print(f"{options.out}: weights sha256 {sha256}")


if __name__ == "__main__":
    main()
