"""Weights of the teacher: the image encoder of a SAM checkpoint, compared with ours and hashed."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor

from stages.embed.teachers.sam import ARCHITECTURES, Architecture
from stages.weight_files import differences, prefixes_of, read_tensors
from store.errors import CheckpointError

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


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the image encoder of a SAM checkpoint under its official names, as float32.

    Args:
        path: The official file, the encoder alone, what trainers wrap around either (`model`,
            `state_dict`, `module.`, ...), or transformers' SamModel.

    Raises:
        CheckpointError: for a file that is missing, damaged or holds no image encoder.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such weight file; download SAM's checkpoint to there (addresses: "
            "github.com/facebookresearch/segment-anything), or set embed.weights to another"
        )
    tensors, _ = read_tensors(path)
    if official := _OFFICIAL_NAME.fullmatch(path.name):
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
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
    """Require every tensor that the encoder has, in its shape, and no other.

    Raises:
        CheckpointError: for weights that do not fit.
    """
    if faults := differences(wanted, given).summary():
        raise CheckpointError(
            f"{path}: does not fit the encoder of SAM ({faults}); give the official checkpoint"
        )


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Hash names, shapes and float32 values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _official(name: str) -> str:
    for theirs, official in _HUGGING_FACE.items():
        name = name.replace(theirs, official)
    return name
