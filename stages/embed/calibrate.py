"""How fast this machine's teacher is: a few tiles against the clock."""

from time import perf_counter

import torch

from stages.embed.config import EmbedConfig
from stages.embed.teachers.sam_encoder import load_teacher

LEAST_S = 1.0
"""Tiles are timed for at least so long, after one batch that warms up."""


def tiles_per_second(config: EmbedConfig, *, least_s: float = LEAST_S) -> tuple[float, str]:
    """Time the configured teacher with random weights, which cost what trained ones do.

    Only the encoder is timed: decoding, blending and writing are meant to hide behind it.

    Args:
        config: section `embed`; its weights are not read.
        least_s: go on timing batches until that many seconds have passed.

    Returns:
        Tiles per second, and the device they were measured on.

    Raises:
        ConfigError: where there is no such device, or a batch does not fit in its memory.
    """
    teacher = load_teacher(config.model_copy(update={"weights": "random"}))
    tiles = torch.zeros(config.batch_tiles, 3, teacher.side_px, teacher.side_px)
    teacher.encode(tiles)
    batches, started = 0, perf_counter()
    while (elapsed_s := perf_counter() - started) < least_s:
        teacher.encode(tiles)  # returns when the tokens are on the CPU
        batches += 1
    threads = torch.get_num_threads()
    on_cpu = f"this machine, {threads} threads" if threads > 1 else "this machine, 1 thread"
    device = torch.cuda.get_device_name() if teacher.device.type == "cuda" else on_cpu
    return batches * config.batch_tiles / elapsed_s, device
