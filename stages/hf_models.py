"""Models in Hugging Face's format: families, what their small files say, and where they lie."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, PositiveFloat, ValidationError

from store.errors import CheckpointError
from store.fingerprint import fingerprint_of

if TYPE_CHECKING:  # torch
    from torch import nn
    from transformers import PreTrainedConfig


@dataclass(frozen=True, slots=True)
class Family:
    """One family of models."""

    model: str  # class of transformers
    licence: str  # of the published weights, for store and model card
    norm: str = ""  # the last LayerNorm; a pyramid has none for all its maps
    strides: tuple[int, ...] = ()  # of a pyramid, whose maps come from one pass; none of a ViT
    widths: str = "hidden_size"  # key of the config that has the channels
    maps: str = "hidden_states"  # of a pyramid's output; the last ones are those of `strides`
    part: str = ""  # of the model that is the encoder; empty where it is all of it
    config: str = ""  # its class where it is not the one that the model was saved with
    leads: int = 1  # tokens of a ViT before registers and patches: its class token


_DINO2, _DINO3, _SAM2 = "DINOv2: Apache-2.0", "DINOv3: DINOv3 License", "SAM 2.1: Apache-2.0"
_FPN: Final[dict[str, Any]] = {
    "strides": (4, 8, 16),
    "widths": "fpn_hidden_size",
    "maps": "fpn_hidden_states",
}
FAMILIES: Final[Mapping[str, Family]] = {
    "dinov2": Family("Dinov2Model", _DINO2, norm="layernorm"),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", _DINO2, norm="layernorm"),
    "dinov3_vit": Family("DINOv3ViTModel", _DINO3, norm="norm"),
    "dinov3_convnext": Family(
        "DINOv3ConvNextModel", _DINO3, strides=(4, 8, 16, 32), widths="hidden_sizes"
    ),
    "sam2_vision_model": Family("Sam2VisionModel", _SAM2, **_FPN),
    "sam2": Family("Sam2Model", _SAM2, part="vision_encoder", **_FPN),
    # as the weights of SAM 2.1 are published
    "sam2_video": Family("Sam2Model", _SAM2, part="vision_encoder", config="Sam2Config", **_FPN),
}
"""`model_type` of a config -> its family."""

_SAM1: Final = Family("SamModel", "SAM: Apache-2.0", part="vision_encoder", leads=0)
FROZEN_ONLY: Final[Mapping[str, Family]] = {
    "sam": _SAM1,
    "sam_vision_model": replace(_SAM1, model="SamVisionModel"),
}
"""Further families of frozen networks; as a teacher SAM is a kind of its own."""

_NOT_OF_FEATURES: Final = frozenset(
    ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
)
CONFIG, IMAGES, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
SMALL: Final = (CONFIG, IMAGES)


class _Preprocessor(BaseModel):
    image_mean: tuple[float, float, float]
    image_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    do_normalize: Literal[True] = True
    do_rescale: bool | None = True
    rescale_factor: PositiveFloat | None = 1 / 255


class Facts(NamedTuple):
    """What the small files of a model say."""

    model_type: str
    patch_px: int  # input pixels per token of a ViT, 0 of a pyramid
    prefix: int  # tokens before those of the image
    depth: int  # blocks of a ViT, 0 of a pyramid
    channels: tuple[int, ...]  # of a ViT, or of each map of a pyramid
    mean: tuple[float, ...]  # of the input, for pixels of 0 to 255
    std: tuple[float, ...]

    @property
    def family(self) -> Family:
        """The record of its family."""
        return {**FAMILIES, **FROZEN_ONLY}[self.model_type]


def weight_files(folder: Path) -> list[Path]:
    """Return the file of weights, or all files that their index names; they may be missing."""
    index = folder / f"{WEIGHTS}.index.json"
    if (folder / WEIGHTS).is_file() or not index.is_file():
        return [folder / WEIGHTS]
    names = _json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        return [folder / WEIGHTS]  # which is missing
    return [folder / name for name in sorted({str(each) for each in names.values()})]


def config_digest(folder: Path) -> str:
    """Hash what a model's configuration says of its network: features depend on it."""
    said = _json(folder / CONFIG).items()
    return fingerprint_of({key: value for key, value in said if key not in _NOT_OF_FEATURES})


def has_small(folder: Path) -> bool:
    """Whether a folder has the files that `facts_of` reads."""
    return all((folder / name).is_file() for name in SMALL)


def is_whole(folder: Path) -> bool:
    """Whether a folder has all files of a model."""
    return has_small(folder) and all(path.is_file() for path in weight_files(folder))


def cached(model: str, revision: str) -> Path | None:
    """Return the folder of an id in the cache of the hub; None where it has none."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except Exception:  # ids, caches and networks share no base
        return None


def fetched(model: str, revision: str, patterns: Sequence[str]) -> Path:
    """Fetch files of an id from the hub, and return their folder.

    Raises:
        CheckpointError: where the hub or the network refuses, or a small file is missing.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # of the network; names, timeouts and proxies share no base
        raise CheckpointError(
            f"{model} at {revision}: cannot be fetched from Hugging Face ({type(error).__name__}); "
            "correct embed.teacher.weights and revision, ask its owner for access and log in "
            "(`hf auth login`), or give a folder and set revision to null"
        ) from error
    if lacking := [name for name in SMALL if not (folder / name).is_file()]:
        raise CheckpointError(f"{model} at {revision}: has no {lacking[0]}; take another model")
    return folder


@cache
def facts_of(folder: Path, *, frozen: bool = False) -> Facts:
    """Read the small files of a teacher, or of a frozen network.

    Raises:
        CheckpointError: They do not say it, or name another kind of model.
    """
    families = {**FAMILIES, **FROZEN_ONLY} if frozen else FAMILIES
    found = str(_json(folder / CONFIG).get("model_type"))
    if found not in families:
        raise CheckpointError(
            f"{folder / CONFIG}: model_type {found!r} is not a known one; choose one of "
            f"{', '.join(families)}"
        )
    config, family = read_config(folder), families[found]
    try:
        images = _Preprocessor.model_validate(_json(folder / IMAGES))
    except ValidationError as error:
        raise CheckpointError(
            f"{folder / IMAGES}: image_mean, image_std and rescale_factor are not those of "
            "normalised RGB images; add or correct them"
        ) from error
    by = (images.rescale_factor or 1 / 255) if images.do_rescale else 1.0
    config = config if hasattr(config, family.widths) else config.vision_config
    widths = getattr(config, family.widths)
    channels = tuple(widths) if isinstance(widths, list | tuple) else (widths,)
    return Facts(
        model_type=found,
        patch_px=0 if family.strides else config.patch_size,
        prefix=0 if family.strides else family.leads + getattr(config, "num_register_tokens", 0),
        depth=0 if family.strides else config.num_hidden_layers,
        channels=channels * len(family.strides)
        if len(channels) < len(family.strides)
        else channels,
        mean=tuple(value / by for value in images.image_mean),
        std=tuple(value / by for value in images.image_std),
    )


def read_config(folder: Path) -> "PreTrainedConfig":
    """Read a model's config; CheckpointError where transformers refuses it."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # of JSON, of the config's own checks
        raise CheckpointError(
            f"{folder / CONFIG}: is not a config that transformers reads "
            f"({type(error).__name__}); get the file again"
        ) from error


def load_model(folder: Path, facts: Facts, *, name: str) -> "nn.Module":
    """Load the encoder of a model from a folder that `save_pretrained` left, in float32.

    Raises:
        CheckpointError: for weights that are damaged or do not fit.
    """
    import torch
    import transformers

    from stages.weight_files import Differences

    family, config = facts.family, read_config(folder)
    if family.config:
        config = getattr(transformers, family.config)(vision_config=config.vision_config)
    transformers.utils.logging.set_verbosity_error()  # its bar and report: both are checked here
    transformers.utils.logging.disable_progress_bar()
    try:
        model, info = getattr(transformers, family.model).from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # of safetensors, JSON and transformers
        raise CheckpointError(
            f"{name}: its weights cannot be loaded ({type(error).__name__}); get the file again"
        ) from error
    misshapen = (str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"])
    faults = Differences(
        tuple(sorted(info["missing_keys"])),
        tuple(sorted(info["unexpected_keys"])),
        tuple(sorted(misshapen)),
    ).summary()
    if faults:
        raise CheckpointError(f"{name}: its weights do not fit {family.model} ({faults})")
    encoder: nn.Module = model.get_submodule(family.part) if family.part else model
    return encoder


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read now ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON; get the file again") from error
    return content if isinstance(content, dict) else {}
