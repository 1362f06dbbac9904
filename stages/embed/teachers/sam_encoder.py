"""SAM's image encoder, from the official package, and the weights of its checkpoints.

`segment_anything/__init__` needs torchvision, which the encoder does not; the encoder's module is
therefore imported without running it. Everything is built on the meta device and gets its tensors
from the checkpoint, so that no second copy of the weights is ever made.
"""

# B tiles, C channels, h w tokens

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stages.embed.teachers.attention import fuse_attention
from stages.embed.teachers.encoder import TileEncoder
from stages.embed.teachers.sam_sizes import ARCHITECTURES, NORM_EPS, Architecture, ArchitectureName
from stages.embed.teachers.teacher import Precision, file_sha256
from stages.weight_files import differences, prefixes_of, read_tensors
from store.errors import CheckpointError, ConfigError

PREFIX: Final = "image_encoder."
_OFFICIAL_NAME: Final = re.compile(r"sam_vit_[blh]_([0-9a-f]{6})\.pth")
_ANCHOR: Final = "neck.0.weight"  # every encoder of SAM has it, and no other part
_HUGGING_FACE: Final = {
    "vision_encoder.": PREFIX,
    "patch_embed.projection.": "patch_embed.proj.",
    "neck.conv1.": "neck.0.",
    "neck.layer_norm1.": "neck.1.",
    "neck.conv2.": "neck.2.",
    "neck.layer_norm2.": "neck.3.",
    "layers.": "blocks.",
    "layer_norm1.": "norm1.",
    "layer_norm2.": "norm2.",
}
"""Part of a name in transformers' SamModel -> the official one, in the order to replace them."""


class SamEncoder(TileEncoder):
    """An image encoder that maps normalised tiles to tokens, one level at a time.

    Args:
        encoder: an official `ImageEncoderViT` with its weights; its attention is replaced.
        device, precision, compiled: as in `TileEncoder`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        device: torch.device,
        precision: Precision = "float32",
        *,
        compiled: bool = False,
    ) -> None:
        patch_px = encoder.get_parameter("patch_embed.proj.weight").shape[-1]
        self.channels = encoder.get_parameter("neck.3.bias").numel()
        side_px = encoder.get_parameter("pos_embed").shape[1] * patch_px
        fuse_attention(encoder)
        super().__init__(encoder, side_px, device, precision, compiled=compiled)

    def _features(self, batch: Tensor, levels: Sequence[str]) -> dict[str, Tensor]:
        (level,) = levels
        return {level: self._forward(batch)}


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


def draw_encoder(architecture: Architecture, seed: int) -> nn.Module:
    """Build an untrained encoder: the official initialisation, the same for the same seed."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return build_encoder(architecture)


def load_encoder(architecture: Architecture, path: Path) -> nn.Module:
    """Build an encoder with the weights of a SAM checkpoint; see `read_weights`.

    Raises:
        CheckpointError: for a file that is missing, damaged or of another architecture.
    """
    weights = read_weights(path)
    with torch.device("meta"):
        encoder = build_encoder(architecture)
    if faults := differences(encoder.state_dict(), weights).summary():
        raise CheckpointError(
            f"{path}: does not fit SAM's encoder {architecture.name} ({faults}); give its official "
            "checkpoint, or change embed.teacher.architecture"
        )
    encoder.load_state_dict(weights, strict=True, assign=True)
    return encoder


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the image encoder of a SAM checkpoint under its official names, as float32.

    Args:
        path: The official file, the encoder alone, what trainers wrap around either (`model`,
            `state_dict`, `module.`, ...), or transformers' SamModel.

    Raises:
        CheckpointError: for a file that is missing, damaged or holds no image encoder.
    """
    tensors, _ = read_tensors(path)
    if official := _OFFICIAL_NAME.fullmatch(path.name):
        found = file_sha256(path)
        if not found.startswith(official[1]):
            raise CheckpointError(
                f"{path}: sha256 starts with {found[:6]}, the official file's with {official[1]}; "
                "download it again"
            )
    if any("vision_encoder." in name for name in tensors):
        tensors = {_official(name): tensor for name, tensor in tensors.items()}
    prefixes = sorted({n[: n.index(PREFIX) + len(PREFIX)] for n in tensors if PREFIX in n})
    prefixes = prefixes or prefixes_of(tensors, _ANCHOR)  # of the encoder alone
    if len(prefixes) > 1:
        several = ", ".join(f"{prefix}*" for prefix in prefixes)
        raise CheckpointError(
            f"{path}: holds several image encoders of SAM ({several}); save one of them alone"
        )
    if not prefixes:
        found = ", ".join(sorted({f"{name.partition('.')[0]}.*" for name in tensors})[:5])
        raise CheckpointError(
            f"{path}: holds no image encoder of SAM, but {found}; give a checkpoint of SAM"
        )
    prefix = prefixes[0]
    return {n.removeprefix(prefix): t.float() for n, t in tensors.items() if n.startswith(prefix)}


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Hash names, shapes and float32 values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


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


def _official(name: str) -> str:
    for theirs, official in _HUGGING_FACE.items():
        name = name.replace(theirs, official)
    return name
