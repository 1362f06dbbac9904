"""The random choices of one training step, from the seed and the number of the iteration alone."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from stages.train.adaptation.augment import StrongDraw, draw_strong
from stages.train.adaptation.masking import draw_blocks
from stages.train.adaptation.mixing import draw_classes
from stages.train.config import SelfTrainingConfig, TrainConfig
from stages.train.crops import STEP_STREAM


class Draws(NamedTuple):
    """The random choices of one step; `masked` and `blocks` are for masked image consistency."""

    classes: list[list[int]]
    mixed: list[StrongDraw]
    masked: list[StrongDraw]
    blocks: Tensor | None

    def of(self, rows: slice) -> "Draws":
        """Choices of some images of the batch, for a process that has only these."""
        return Draws(
            self.classes[rows],
            self.mixed[rows],
            [draw.of(rows) for draw in self.masked],
            None if self.blocks is None else self.blocks[rows],
        )


def draw_step(config: TrainConfig, source_label: Tensor, iteration: int) -> Draws | None:
    """Draw the choices of an iteration from the seed and its number alone.

    Args:
        config: Section `train`.
        source_label: (B, H, W), on the CPU: its classes decide what is drawn.
        iteration: 0-based.

    Returns:
        None where the iteration trains on the source only.
    """
    self_training = config.self_training
    if self_training is None or iteration < self_training.start:
        return None
    rng = np.random.default_rng((config.seed, STEP_STREAM, iteration))
    batch, height, width = source_label.shape
    classes = draw_classes(rng, source_label, self_training.class_pool)
    mixed = _draw_strong(rng, batch, self_training, per_image=True)
    if config.masking is None:
        return Draws(classes, mixed, [], None)
    masked = _draw_strong(rng, batch, self_training, per_image=False)
    blocks = draw_blocks(rng, batch, (height, width), config.masking.block_px)
    return Draws(classes, mixed, masked, blocks)


def _draw_strong(
    rng: np.random.Generator, batch: int, config: SelfTrainingConfig, *, per_image: bool
) -> list[StrongDraw]:
    return draw_strong(
        rng,
        batch,
        jitter_probability=config.jitter_probability,
        jitter_strength=config.jitter_strength,
        blur_probability=config.blur_probability,
        per_image=per_image,
    )
