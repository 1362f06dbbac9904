"""The teacher: SAM's image encoder with its weights, from the official package.

`segment_anything/__init__` needs torchvision, which the encoder does not; the encoder's module is
therefore imported without running it. Everything is built on the meta device and gets its tensors
from the checkpoint, so that no second copy of the weights is ever made.
"""

# B tiles, C channels, h w tokens

import hashlib
import importlib
import importlib.util
import pickle
import re
import sys
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor, nn

from stages.device import pick_device
from stages.embed.architectures import ARCHITECTURES, NORM_EPS, Architecture
from stages.embed.config import EmbedConfig, Precision
from store.errors import CheckpointError, ConfigError

PREFIX: Final = "image_encoder."
_OFFICIAL_NAME: Final = re.compile(r"sam_vit_[blh]_([0-9a-f]{6})\.pth")


class Teacher:
    """An image encoder that maps normalised tiles to tokens.

    Args:
        encoder: an official `ImageEncoderViT` with its weights.
        architecture: name for the provenance of what it makes.
        trained: False where the weights are random.
        device: where it runs.
        precision: `bfloat16` runs under autocast; weights stay float32.

    Attributes:
        side_px: side of the tiles that it takes.
        patch_px: pixels per token.
        channels: channels of its tokens.
        weights_sha256: hash of names, shapes and values of the float32 weights, wherever they
            were read from.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        architecture: str,
        trained: bool,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.architecture = architecture
        self.trained = trained
        self.device = device
        self.precision = precision
        self.patch_px = encoder.get_parameter("patch_embed.proj.weight").shape[-1]
        self.side_px = encoder.get_parameter("pos_embed").shape[1] * self.patch_px
        self.channels = encoder.get_parameter("neck.3.bias").numel()
        self.weights_sha256 = _hash_weights(encoder.state_dict())
        self.encoder = encoder.to(device).eval().requires_grad_(False)

    def encode(self, tiles: Tensor) -> Tensor:
        """Encode a batch of tiles.

        Args:
            tiles: (B, 3, side_px, side_px) float32, normalised RGB, on any device.

        Returns:
            (B, C, h, w) float32 on the CPU, h = w = side_px / patch_px.

        Raises:
            ValueError: for tiles of another size, which the encoder might accept and get wrong.
            ConfigError: for more tiles than fit in the GPU's memory.
        """
        wanted = (3, self.side_px, self.side_px)
        if tuple(tiles.shape[1:]) != wanted:
            raise ValueError(f"tiles of shape {tuple(tiles.shape[1:])} given, {wanted} needed")
        half = self.precision == "bfloat16"
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=half),
            ):
                tokens: Tensor = self.encoder(tiles.to(self.device))
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"{len(tiles)} tiles of {self.side_px} px are too many for the memory of "
                f"{self.device}; lower embed.batch_tiles"
            ) from error
        return tokens.float().cpu()  # (B, C, h, w)


def load_teacher(config: EmbedConfig) -> Teacher:
    """Load or draw the weights that the config asks for.

    Raises:
        CheckpointError: for a weight file that is missing, damaged or of another architecture.
        ConfigError: where there is no such device or no package `segment_anything`.
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
    weights = _read_weights(path)
    _check_architecture(weights, architecture, path)
    with torch.device("meta"):
        encoder = build_encoder(architecture)
    _check_shapes(weights, encoder.state_dict(), path)
    encoder.load_state_dict(weights, strict=True, assign=True)
    return encoder


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


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weight file; set embed.weights to a SAM checkpoint")
    if official := _OFFICIAL_NAME.fullmatch(path.name):
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(official[1]):
            raise CheckpointError(
                f"{path}: sha256 starts with {found[:6]}, the official file's with {official[1]}; "
                "download it again"
            )
    try:
        state = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: damaged, or not a file of torch weights ({type(error).__name__}); "
            "download it again"
        ) from error
    entries = state if isinstance(state, dict) else {}
    weights = {
        key.removeprefix(PREFIX): value.float()
        for key, value in entries.items()
        if isinstance(key, str) and key.startswith(PREFIX) and isinstance(value, Tensor)
    }
    if not weights:
        raise CheckpointError(f"{path}: has no {PREFIX}* entries; give a checkpoint of SAM")
    return weights


def _check_architecture(weights: Mapping[str, Tensor], wanted: Architecture, path: Path) -> None:
    """Tell what the file looks like before the shapes of single tensors are compared."""
    patches = weights.get("patch_embed.proj.weight")
    width = 0 if patches is None else len(patches)
    depth = len({key.split(".")[1] for key in weights if key.startswith("blocks.")})
    if (width, depth) == (wanted.width, wanted.depth):
        return
    alike = [n for n, a in ARCHITECTURES.items() if (a.width, a.depth) == (width, depth)]
    looks = f"{alike[0]} weights" if alike else "an encoder that is not known here"
    raise CheckpointError(
        f"{path}: holds {looks} (width {width}, depth {depth}), but embed.architecture is "
        f"{wanted.name} (width {wanted.width}, depth {wanted.depth}); change one of them"
    )


def _check_shapes(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    for key in sorted(given.keys() | wanted.keys()):
        have, need = (tuple(s[key].shape) if key in s else None for s in (given, wanted))
        if have != need:
            raise CheckpointError(
                f"{path}: {PREFIX}{key} is {have or 'missing'} in the file and "
                f"{need or 'unknown'} to the encoder; give the official checkpoint"
            )


def _hash_weights(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
