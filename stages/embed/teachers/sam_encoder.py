"""The teacher: SAM's image encoder with its weights, from the official package.

`segment_anything/__init__` needs torchvision, which the encoder does not; the encoder's module is
therefore imported without running it. Everything is built on the meta device and gets its tensors
from the checkpoint, so that no second copy of the weights is ever made.
"""

# B tiles, C channels, h w tokens

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from stages.device import pick_device
from stages.embed.config import EmbedConfig, Precision
from stages.embed.teachers.attention import fuse_attention
from stages.embed.teachers.sam import ARCHITECTURES, NORM_EPS, Architecture
from stages.embed.teachers.sam_weights import (
    check_architecture,
    check_shapes,
    hash_weights,
    read_weights,
)
from store.errors import ConfigError


class Teacher:
    """An image encoder that maps normalised tiles to tokens.

    Args:
        encoder: an official `ImageEncoderViT` with its weights; its attention is replaced.
        architecture: name for the provenance of what it makes.
        trained: False where the weights are random.
        device: where it runs.
        precision: the halves run under autocast; weights and the sums of residuals stay float32.
        compiled: True runs it through `torch.compile`, which takes minutes at the first batch.

    Attributes:
        side_px: side of the tiles that it takes.
        patch_px: pixels per token.
        channels: channels of its tokens.
        weights_sha256: hash of names, shapes and values of the float32 weights, wherever they
            were read from.

    Raises:
        ConfigError: for float16 on the CPU, which computes it slower than float32, if at all.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        architecture: str,
        trained: bool,
        device: torch.device,
        precision: Precision,
        compiled: bool = False,
    ) -> None:
        if precision == "float16" and device.type == "cpu":
            raise ConfigError(
                "embed.precision float16 needs a GPU; on the CPU set it to bfloat16 or float32"
            )
        self.architecture = architecture
        self.trained = trained
        self.device = device
        self.precision = precision
        self.patch_px = encoder.get_parameter("patch_embed.proj.weight").shape[-1]
        self.side_px = encoder.get_parameter("pos_embed").shape[1] * self.patch_px
        self.channels = encoder.get_parameter("neck.3.bias").numel()
        self.weights_sha256 = hash_weights(encoder.state_dict())
        fuse_attention(encoder)
        self.encoder = encoder.to(device).eval().requires_grad_(False)
        self._forward = cast(
            Callable[[Tensor], Tensor], torch.compile(encoder) if compiled else encoder
        )

    def encode(self, tiles: Tensor) -> Tensor:
        """Encode (B, 3, side_px, side_px) and wait for it; all else as in `start`."""
        return self.start(list(tiles))()

    def start(self, tiles: Sequence[Tensor]) -> Callable[[], Tensor]:
        """Begin to encode a batch of tiles.

        A GPU works on while the caller does something else; copies to it wait for nothing either
        where the tiles lie in pinned memory. The CPU is done when this returns.

        Args:
            tiles: each (3, side_px, side_px) float32, normalised RGB, on any device.

        Returns:
            What waits for the tokens, (B, C, h, w) float32 on the CPU, h = w = side_px / patch_px.

        Raises:
            ValueError: for tiles of another size, which the encoder might accept and get wrong.
            ConfigError: for more tiles than fit in the GPU's memory.
        """
        wanted = (3, self.side_px, self.side_px)
        for tile in tiles:
            if tuple(tile.shape) != wanted:
                raise ValueError(f"tiles of shape {tuple(tile.shape)} given, {wanted} needed")
        dtype = getattr(torch, self.precision)
        half = dtype != torch.float32
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=half):
                batch = torch.stack([tile.to(self.device, non_blocking=True) for tile in tiles])
                return _to_cpu(self._forward(batch).float())
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"{len(tiles)} tiles of {self.side_px} px are too many for the memory of "
                f"{self.device}; lower embed.batch_tiles"
            ) from error


def load_teacher(config: EmbedConfig) -> Teacher:
    """Load or draw the weights that the config asks for.

    Raises:
        CheckpointError: for a weight file that is missing, damaged or of another architecture.
        ConfigError: where there is no such device or no package `segment_anything`, or the device
            does not compute in this precision.
    """
    architecture = ARCHITECTURES[config.architecture]
    random = config.weights == "random"
    return Teacher(
        draw_encoder(architecture, config.seed)
        if random
        else load_encoder(architecture, Path(config.weights).expanduser()),
        architecture=config.architecture,
        trained=not random,
        device=pick_device(config.device, "embed.device"),
        precision=config.precision,
        compiled=config.compile,
    )


def build_encoder(architecture: Architecture) -> nn.Module:
    """Build the official `ImageEncoderViT` with freshly initialised weights.

    Raises:
        ConfigError: if `segment_anything` is not installed.
    """
    return _official_class()(
        img_size=architecture.side_px,
        patch_size=architecture.patch_px,
        embed_dim=architecture.width,
        depth=architecture.depth,
        num_heads=architecture.heads,
        mlp_ratio=architecture.mlp_ratio,
        out_chans=architecture.channels,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=NORM_EPS),
        use_rel_pos=True,
        window_size=architecture.window_tok,
        global_attn_indexes=architecture.global_blocks,
    )


def draw_encoder(architecture: Architecture, seed: int) -> nn.Module:
    """Build an untrained encoder: the official initialisation, the same for the same seed."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return build_encoder(architecture)


def load_encoder(architecture: Architecture, path: Path) -> nn.Module:
    """Build an encoder with the `image_encoder.*` weights of a SAM checkpoint.

    Args:
        architecture: what the file is supposed to hold.
        path: a file saved by torch; its other entries (prompt encoder, mask decoder) are not read.

    Raises:
        CheckpointError: for a file that is missing, damaged or of another architecture.
    """
    weights = read_weights(path)
    check_architecture(weights, architecture, path)
    with torch.device("meta"):
        encoder = build_encoder(architecture)
    check_shapes(weights, encoder.state_dict(), path)
    encoder.load_state_dict(weights, strict=True, assign=True)
    return encoder


def _to_cpu(tokens: Tensor) -> Callable[[], Tensor]:
    """Queue the copy right behind the kernels, not behind those of the next batch."""
    if tokens.device.type != "cuda":
        return lambda: tokens
    pinned = torch.empty(tokens.shape, pin_memory=True)
    pinned.copy_(tokens, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()

    def wait() -> Tensor:
        copied.synchronize()
        return pinned

    return wait


def _official_class() -> type[nn.Module]:
    package = "segment_anything"
    known = sys.modules.get(package)
    if known is None:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ConfigError(f"{package} is not installed; run: pip install {package}")
        # An empty package with the right __path__ is enough for its submodules to be found.
        sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        module = importlib.import_module(f"{package}.modeling.image_encoder")
    finally:
        if known is None:
            del sys.modules[package]  # nobody else shall meet the empty one
    return cast(type[nn.Module], module.ImageEncoderViT)
