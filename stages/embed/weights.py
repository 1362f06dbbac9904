"""Weights of the teacher: read from the official files, checked with one clear line, hashed."""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from stages.embed.architectures import ARCHITECTURES, Architecture
from store.errors import CheckpointError

PREFIX: Final = "image_encoder."
_OFFICIAL_NAME: Final = re.compile(r"sam_vit_[blh]_([0-9a-f]{6})\.pth")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the `image_encoder.*` entries of a SAM checkpoint, without that prefix, as float32.

    Raises:
        CheckpointError: for a file that is missing, damaged or holds no image encoder.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such weight file; download SAM's checkpoint to there (addresses: "
            "github.com/facebookresearch/segment-anything), or set embed.weights to another"
        )
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


def check_architecture(weights: Mapping[str, Tensor], wanted: Architecture, path: Path) -> None:
    """Tell what the file looks like before the shapes of single tensors are compared.

    Raises:
        CheckpointError: for weights of another architecture.
    """
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


def check_shapes(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """Demand every tensor that the encoder has, in its shape, and no other.

    Raises:
        CheckpointError: for the first that does not fit.
    """
    for key in sorted(given.keys() | wanted.keys()):
        have, need = (tuple(s[key].shape) if key in s else None for s in (given, wanted))
        if have != need:
            raise CheckpointError(
                f"{path}: {PREFIX}{key} is {have or 'missing'} in the file and "
                f"{need or 'unknown'} to the encoder; give the official checkpoint"
            )


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Hash names, shapes and float32 values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
