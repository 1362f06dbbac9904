"""The arms: each builds the same networks and runs its own step."""

# B batch, C channels, h w tokens

import statistics
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.step_time.data import crops_of, read_manifest
from benchmarks.step_time.ported_step import ported_step, prepare_port
from benchmarks.step_time.setting import LEVEL, Setting, configure
from stages.device import pick_device
from stages.embed.teachers.sam_encoder import draw_encoder, fuse_attention
from stages.embed.teachers.sam_sizes import ARCHITECTURES
from stages.fields import DeviceName
from stages.student.mit import BACKBONES
from stages.student.student import build_student, seeded
from stages.train.config import TrainConfig
from stages.train.crops import Batch, batches
from stages.train.models import ImageNetReference, Models, without_noise
from stages.train.regularizers.cross_attention import CrossAttentionBranch
from stages.train.state import build_optimizer
from stages.train.step import Draws, draw_step, mix_stored, train_step

Encode = Callable[[Tensor], Tensor]
"""(B, 3, H, W) normalised -> SAM's features (B, C, h, w)."""


@dataclass
class Arm:
    """One line of the table.

    Attributes:
        config: Its section `train`.
        models: Its networks.
        load: Reads the batch of the next iteration.
        learn: Adds the gradients of an iteration.
        update: Moves the weights.
        encode: SAM, where it is in the loop.
        ported: Whether it runs the ported step, not ours.
        seconds: Of the whole step in each round.
        data_seconds: Of `load` in each round.
    """

    config: TrainConfig
    models: Models
    load: Callable[[], Batch]
    learn: Callable[[Batch, Draws, int], None]
    update: Callable[[], None]
    encode: Encode | None
    ported: bool
    seconds: list[float] = field(default_factory=list)
    data_seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median seconds of a step."""
        return statistics.median(self.seconds)

    def step(self, iteration: int) -> float:
        """Run an iteration, data and update included; return the seconds that data took."""
        started = perf_counter()
        samples = self.load()
        waited = perf_counter() - started
        draws = draw_step(self.config, samples.source_label, iteration)
        assert draws is not None
        torch.manual_seed(iteration)  # the noise of dropout and stochastic depth
        self.learn(samples, draws, iteration)
        self.update()
        return waited


def device_of(setting: Setting) -> torch.device:
    """Pick where to compute."""
    return pick_device(cast(DeviceName, setting.device), "--device")


def build_arm(arm: str, folder: Path, setting: Setting) -> Arm:
    """Prepare an arm over the data of `draw_data`; nothing has run when this returns."""
    device, config = device_of(setting), configure(setting, arm)
    models = build_models(config, setting, len(read_manifest(folder).classes), device)
    loader = batches(crops_of(arm, folder, setting), config, start=0, device=device)
    ported = arm == "p"
    if ported:
        optimizer = prepare_port(models, config)
    else:
        optimizer = build_optimizer(models.student, models.regularizer, config.optimizer)

    def learn(samples: Batch, draws: Draws, iteration: int) -> None:
        batch = samples.to(device)
        if ported:
            ported_step(models, batch, draws, config=config, iteration=iteration)
        else:
            _our_step(models, batch, draws, config, iteration, built.encode)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    encode = encoder_of(arm, setting, device)
    built = Arm(config, models, lambda: next(loader), learn, update, encode, ported)
    return built


def build_models(
    config: TrainConfig, setting: Setting, classes: int, device: torch.device
) -> Models:
    """Build the networks; the same weights for every arm."""
    student = build_student(config.student, num_classes=classes, seed=0)
    regularizer = None
    if config.regularizer.on:
        heads, levels = BACKBONES[config.student.backbone].heads, config.regularizer.levels
        with seeded(0):
            regularizer = CrossAttentionBranch(
                student.channels, {LEVEL: setting.teacher_channels}, heads, levels
            )
    backbone = deepcopy(student.backbone).eval().requires_grad_(False)
    reference = ImageNetReference(backbone, range(classes // 2, classes))
    models = Models(student, without_noise(deepcopy(student)), regularizer, reference)
    models.set_up(config, device)
    return models


def _our_step(
    models: Models,
    batch: Batch,
    draws: Draws,
    config: TrainConfig,
    iteration: int,
    encode: Encode | None,
) -> None:
    """Run `train_step`, with features that `encode` computes where there is such a thing."""
    if encode is None:
        train_step(models, batch, draws, config=config, iteration=iteration, mixer=mix_stored)
        return
    batch.source_features[LEVEL] = encode(batch.source_image)

    def see_mixed(_: Tensor, mixed: Tensor, __: Batch) -> Mapping[str, Tensor]:
        return {LEVEL: encode(mixed)}

    train_step(models, batch, draws, config=config, iteration=iteration, mixer=see_mixed)


def encoder_of(arm: str, setting: Setting, device: torch.device) -> Encode | None:
    """Return what encodes images in the step; official SSR scales them to SAM's side."""
    if arm[0] != "c":
        return None
    architecture = ARCHITECTURES[setting.sam]
    side, encoder = architecture.side_px, draw_encoder(architecture, 0)
    half = arm == "c fused" and setting.precision == "bfloat16"
    if arm == "c fused":
        fuse_attention(encoder)
    encoder = encoder.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        images = F.interpolate(images, (side, side), mode="bilinear", align_corners=False)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return cast(Tensor, encoder(images)).float()

    return encode
