"""What an encoder costs, from its table alone: arithmetic, weights, memory. No torch."""

from collections.abc import Iterator
from typing import Final

from stages.embed.architectures import Architecture

BIAS_VALUES: Final = 2**25
"""Values of attention's bias that exist at a time on the CPU: 128 MiB, two heads of ViT-B."""


def macs_per_tile(architecture: Architecture) -> int:
    """Count the multiply-accumulates of one tile.

    Counts what the official `ImageEncoderViT` computes, with the padding of grids that are no
    multiple of the window and with the relative positions: 486, 1,493 and 2,981 GMAC for ViT-B, L
    and H. Norms, activations and softmax are left out, as is the custom.

    Args:
        architecture: the encoder.
    """
    side_tok, width = architecture.side_px // architecture.patch_px, architecture.width
    tokens = side_tok**2
    total = tokens * width * 3 * architecture.patch_px**2  # patches
    for seen_tok in _seen_sides_tok(architecture):
        rows = (-(-side_tok // seen_tok) * seen_tok) ** 2  # padded to whole windows
        total += rows * 4 * width**2  # query, key, value, projection
        total += rows * 2 * seen_tok**2 * width  # scores and what they weigh
        total += rows * 2 * seen_tok * width  # relative rows and columns
        total += tokens * 2 * width * _hidden(architecture)  # MLP
    return total + tokens * (width + 9 * architecture.channels) * architecture.channels  # neck


def parameters(architecture: Architecture) -> int:
    """Count the weights of an encoder."""
    side_tok = architecture.side_px // architecture.patch_px
    width, channels = architecture.width, architecture.channels
    total = (3 * architecture.patch_px**2 + 1) * width + side_tok**2 * width  # patches, positions
    for seen_tok in _seen_sides_tok(architecture):
        total += 4 * width  # two norms
        total += 4 * width**2 + 4 * width  # query, key, value, projection
        total += 2 * (2 * seen_tok - 1) * (width // architecture.heads)  # relative positions
        total += 2 * width * _hidden(architecture) + width + _hidden(architecture)  # MLP
    return total + (width + 9 * channels) * channels + 4 * channels  # neck


def activation_bytes(architecture: Architecture, batch_tiles: int) -> int:
    """Estimate the most memory that one forward pass holds beside the weights.

    The peak is a block with its tokens, query, key, value and hidden layer, some 24 times the width
    a token, the relative rows and columns of each head, and one buffer for the bias: 0.46 GB for
    one tile of ViT-B, *measured* 0.38 in float32, 0.50 in bfloat16 (two: 0.79, 0.71 and 0.81).
    The official code writes its scores too, and needs 2.6 GB for one tile.

    Args:
        architecture: the encoder.
        batch_tiles: tiles per forward pass.
    """
    side_tok = architecture.side_px // architecture.patch_px
    per_token = 24 * architecture.width + 2 * side_tok * architecture.heads
    bias = min(BIAS_VALUES, batch_tiles * architecture.heads * side_tok**4)
    return 4 * (batch_tiles * side_tok**2 * per_token + bias)


def _hidden(architecture: Architecture) -> int:
    return int(architecture.width * architecture.mlp_ratio)


def _seen_sides_tok(architecture: Architecture) -> Iterator[int]:
    """Yield for each block the side of what a token attends to: the grid or a window."""
    side_tok = architecture.side_px // architecture.patch_px
    for block in range(architecture.depth):
        yield side_tok if block in architecture.global_blocks else architecture.window_tok
