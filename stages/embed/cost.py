"""The cost of an encoder: counted on PyTorch's meta device, or measured; no weight is needed."""

from functools import cache
from time import perf_counter
from typing import Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from stages.embed.config import EmbedConfig
from stages.embed.teachers.attention import BIAS_VALUES
from stages.embed.teachers.sam_encoder import build_encoder
from stages.embed.teachers.sam_sizes import ARCHITECTURES, ArchitectureName

LEAST_S: Final = 1.0
"""Tiles are timed for at least so long, after one batch that warms up."""


@cache
def macs_per_tile(name: ArchitectureName) -> int:
    """Count the multiply-accumulates of one tile: 486, 1,493 and 2,981 GMAC for ViT-B, L and H.

    Those of the official `ImageEncoderViT`, with the padding of grids that are not a multiple of
    the window. Norms, activations and softmax are left out, as is the custom.
    """
    side_px = ARCHITECTURES[name].side_px
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build_encoder(ARCHITECTURES[name])(torch.empty(1, 3, side_px, side_px))
    return int(counter.get_total_flops()) // 2


def memory_bytes(name: ArchitectureName, batch_tiles: int) -> int:
    """Estimate the most memory of one forward pass: weights and activations in float32.

    The peak is a block with its tokens, query, key, value and hidden layer, some 24 times the width
    a token, the relative rows and columns of each head, and one buffer for the bias: 0.46 GB for
    one tile of ViT-B, *measured* 0.38 in float32, 0.50 in bfloat16 (two: 0.79, 0.71 and 0.81).
    The official code writes its scores too, and needs 2.6 GB for one tile.

    Args:
        name: The encoder.
        batch_tiles: Tiles per forward pass.
    """
    architecture = ARCHITECTURES[name]
    with torch.device("meta"):
        weights = sum(each.numel() for each in build_encoder(architecture).parameters())
    side_tok = architecture.side_px // architecture.patch_px
    per_token = 24 * architecture.width + 2 * side_tok * architecture.heads
    bias = min(BIAS_VALUES, batch_tiles * architecture.heads * side_tok**4)
    return 4 * (weights + batch_tiles * side_tok**2 * per_token + bias)


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
    teacher = config.teacher.model_copy(update={"weights": "random"})
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
