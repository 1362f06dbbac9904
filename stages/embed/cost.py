"""The speed of an encoder, measured; no weight is needed where the teacher can draw its own."""

from time import perf_counter
from typing import Final

import torch

from stages.embed.config import EmbedConfig

LEAST_S: Final = 1.0
"""Tiles are timed for at least so long, after one batch that warms up."""


def tiles_per_second(config: EmbedConfig, *, least_s: float = LEAST_S) -> tuple[float, str]:
    """Time the configured teacher, with random weights where it can draw them: they cost the same.

    Only the encoder is timed: decoding, blending and writing are meant to hide behind it.

    Args:
        config: section `embed`.
        least_s: go on timing batches until that many seconds have passed.

    Returns:
        Tiles per second, and the device they were measured on.

    Raises:
        CheckpointError: for weights that are needed and missing or damaged.
        ConfigError: where there is no such device, or a batch does not fit in its memory.
    """
    teacher = config.teacher.untrained()
    encoder = config.model_copy(update={"teacher": teacher}).load_encoder()
    tiles = torch.zeros(config.batch_tiles, 3, teacher.side_px, teacher.side_px)
    level = config.levels[:1]
    encoder.encode(tiles, level)
    batches, started = 0, perf_counter()
    while (elapsed_s := perf_counter() - started) < least_s:
        encoder.encode(tiles, level)  # returns when the tokens are on the CPU
        batches += 1
    threads = torch.get_num_threads()
    on_cpu = f"this machine, {threads} threads" if threads > 1 else "this machine, 1 thread"
    device = torch.cuda.get_device_name() if encoder.device.type == "cuda" else on_cpu
    return batches * config.batch_tiles / elapsed_s, device
