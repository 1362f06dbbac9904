"""Models in Hugging Face's format as teachers, `kind: hf`: one record a family, no remote code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self

from pydantic import Field

from stages.embed.teachers.teacher import RGB, Precision, Teacher, TeacherLevel, file_sha256
from stages.fields import DeviceName, Name, PathText
from store.errors import CheckpointError, ConfigError
from store.fingerprint import fingerprint_of

if TYPE_CHECKING:  # torch
    from transformers import PreTrainedConfig

    from stages.embed.teachers.hf_encoder import HfEncoder


@dataclass(frozen=True, slots=True)
class Family:
    """One family of models.

    Attributes:
        model: class of transformers.
        licence: of the published weights, for store and model card.
        norm: the model's last LayerNorm; empty for a pyramid, which has none for all its maps.
        strides: of a pyramid, whose maps come from one pass; empty for a ViT.
        widths: key of the config that has the channels.
        maps: the pyramid's attribute of the output, whose last maps are those of `strides`.
        part: attribute of the model that is the encoder; empty where it is all of it.
        config: class of the config where it is not the one that the model was saved with.
    """

    model: str
    licence: str
    norm: str = ""
    strides: tuple[int, ...] = ()
    widths: str = "hidden_size"
    maps: str = "hidden_states"
    part: str = ""
    config: str = ""


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

_CONFIG, _IMAGES, _WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
_SMALL: Final = (_CONFIG, _IMAGES)
_PYRAMID_MULTIPLE_PX: Final = 32
_VIT_STRIDES: Final = (8, 16, 32)


class Facts(NamedTuple):
    """What the small files of a model say.

    Attributes:
        model_type: of `FAMILIES`.
        patch_px: input pixels per token of a ViT, 0 of a pyramid.
        prefix: tokens before those of the image.
        depth: blocks of a ViT, 0 of a pyramid.
        channels: of a ViT, or of each map of a pyramid.
        mean: of the input, for pixels of 0 to 255.
        std: likewise.
    """

    model_type: str
    patch_px: int
    prefix: int
    depth: int
    channels: tuple[int, ...]
    mean: RGB
    std: RGB

    @property
    def family(self) -> Family:
        """The record of its family."""
        return FAMILIES[self.model_type]


class HfTeacher(Teacher):
    """A ViT at SSR's three strides, or a pyramid whose maps come from one pass.

    A ViT's levels are `stride8`, `stride16` and `stride32`, the same network on the image at three
    scales, followed by `_block5` where block 5 is tapped and not the last one.
    """

    origin: ClassVar[str] = "Hugging Face"
    weights_keys: ClassVar[tuple[str, ...]] = (
        "architecture", "weights_sha256", "mean", "std", "licence",
    )  # fmt: skip

    kind: Literal["hf"] = Field(description="A model in Hugging Face's format.")
    weights: PathText = Field(
        description="Id on Hugging Face (owner/name) with `revision`, or a folder without: "
        f"config.json, preprocessor_config.json, model.safetensors; {', '.join(FAMILIES)}."
    )
    revision: Name | None = Field(
        description="Commit, tag or branch of the id; null: `weights` is a folder, and no network "
        "is needed."
    )
    tile_px: Annotated[int, Field(ge=32, le=8192)] = Field(
        description="Side of the tiles, in pixels of the network's input: a multiple of its patch, "
        "or of 32 for pyramids."
    )
    taps: Annotated[
        tuple[Literal["last"] | Annotated[int, Field(ge=0, lt=1000)], ...], Field(min_length=1)
    ] = Field(
        description="Blocks of a ViT whose tokens are levels: `last`, or numbers from 0, as "
        "[2, 5, 8, 11] of 12; a pyramid has `[last]`."
    )
    norm: bool = Field(
        description="Normalise tokens by the ViT's last LayerNorm; false for pyramids."
    )

    @property
    def name(self) -> str:
        """The id or folder."""
        return self.weights if self.revision is None else f"{self.weights} at {self.revision}"

    @property
    def at_hand(self) -> bool:
        """Whether the folder, or the cache of the hub, has all files."""
        folder = self.path if self.revision is None else self._cached()
        return folder is not None and _is_whole(folder)

    @property
    def known(self) -> bool:
        """Whether the small files are there."""
        folder = self.path if self.revision is None else self._cached()
        return folder is not None and _has_small(folder)

    @property
    def missing(self) -> str:
        """The folder or the id, and what to do."""
        if self.revision is None:
            return (
                f"{self.weights}: not a folder with {_CONFIG}, {_IMAGES} and {_WEIGHTS}; correct "
                "embed.teacher.weights, or set embed.teacher.revision where it is an id on "
                "Hugging Face"
            )
        return f"{self.name}: not in the cache of Hugging Face; `ssr embed` fetches it"

    @property
    def side_px(self) -> int:
        """Side of the square input."""
        return self.tile_px

    def absolute(self) -> Self:
        """Return it with an absolute folder."""
        return super().absolute() if self.revision is None else self

    def untrained(self) -> Self:
        """Return itself: it draws no weights."""
        return self

    def facts(self) -> Facts:
        """Read what the model's small files say, fetched from the hub where they are not at hand.

        Raises:
            CheckpointError: where they cannot be had or do not say it.
        """
        return _facts(self._folder(_SMALL))

    def maps(self) -> dict[str, int]:
        """Return each level's place among the maps that one pass makes."""
        strides = self.facts().family.strides
        if strides:
            return {f"stride{stride}": place for place, stride in enumerate(strides)}
        return {
            f"stride{stride}" + ("" if tap == "last" else f"_block{tap}"): place
            for stride, (place, tap) in product(_VIT_STRIDES, enumerate(self.taps))
        }

    def blocks(self) -> tuple[int, ...]:
        """Return the numbers of the tapped blocks, from 0."""
        last = self.facts().depth - 1
        return tuple(last if tap == "last" else tap for tap in self.taps)

    def levels(self) -> dict[str, TeacherLevel]:
        """Return the levels; see `Teacher.levels`."""
        facts = self.facts()
        self._require_fit(facts)
        strides, levels = facts.family.strides, {}
        for name, place in self.maps().items():
            if strides:
                levels[name] = TeacherLevel(strides[place], facts.channels[place], 1.0)
            else:
                stride = int(name.partition("_")[0].removeprefix("stride"))
                levels[name] = TeacherLevel(stride, facts.channels[0], facts.patch_px / stride)
        return levels

    def weights_identity(self) -> dict[str, Any]:
        """Return family, hash of the weights, normalisation and licence."""
        facts = self.facts()
        folder = self._folder((*_SMALL, "*.safetensors*"))
        if not _is_whole(folder):
            raise CheckpointError(
                f"{self.name}: has no {_WEIGHTS}; other formats are not read, as they can run code"
            )
        digests = {path.name: file_sha256(path) for path in weight_files(folder)}
        return {
            "architecture": facts.model_type,
            "weights_sha256": digests.get(_WEIGHTS) or fingerprint_of(digests),
            "mean": list(facts.mean),
            "std": list(facts.std),
            "licence": facts.family.licence,
        }

    def normalisation(self, weights: Mapping[str, Any]) -> tuple[RGB, RGB]:
        """Return those of the model's own preprocessor; `weights` as in `identity`."""
        return tuple(weights.get("mean", ())), tuple(weights.get("std", ()))

    def identity(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return what its features depend on; where the model came from is not part of it."""
        return {
            "kind": self.kind,
            **weights,
            "trained": self.trained,
            "side_px": self.side_px,
            "taps": list(self.taps),
            "norm": self.norm,
        }

    def load(
        self, device: DeviceName, precision: Precision, *, compiled: bool = False
    ) -> "HfEncoder":
        """Load the model; see `Teacher.load`."""
        from stages.device import pick_device
        from stages.embed.teachers.hf_encoder import HfEncoder, load_network

        self._require_fit(self.facts())
        folder = self._folder((*_SMALL, "*.safetensors*"))
        network = load_network(folder, self.facts(), self.blocks(), norm=self.norm, name=self.name)
        place = pick_device(device, "embed.device")
        return HfEncoder(network, self.maps(), self.side_px, place, precision, compiled=compiled)

    def _require_fit(self, facts: Facts) -> None:
        """Refuse taps that the model does not have, and pixels that it would drop silently."""
        what = f"embed.teacher: {self.name} ({facts.model_type})"
        if facts.depth and (absent := [tap for tap in self.blocks() if tap >= facts.depth]):
            raise ConfigError(
                f"{what} has blocks 0 to {facts.depth - 1}, no {absent[0]}; correct taps"
            )
        if not facts.depth and (self.taps != ("last",) or self.norm):
            raise ConfigError(f"{what} is a pyramid: set taps to [last] and norm to false")
        multiple = facts.patch_px or _PYRAMID_MULTIPLE_PX
        if self.tile_px % multiple:
            raise ConfigError(
                f"{what} takes multiples of {multiple} px and would drop the rest of tile_px "
                f"{self.tile_px}; set it to {max(self.tile_px // multiple, 1) * multiple}"
            )

    def _cached(self) -> Path | None:
        from huggingface_hub import snapshot_download

        try:
            return Path(
                snapshot_download(self.weights, revision=self.revision, local_files_only=True)
            )
        except Exception:  # ids, caches and networks share no base
            return None

    def _folder(self, patterns: tuple[str, ...]) -> Path:
        """Return the folder of the model; of an id, with files fetched that the cache lacks."""
        if self.revision is None:
            if not _has_small(self.path):
                raise CheckpointError(self.missing)
            return self.path
        cached = self._cached()
        if (
            cached
            and all((cached / name).is_file() for name in _SMALL)
            and (patterns == _SMALL or _is_whole(cached))
        ):
            return cached
        return _fetched(self.weights, self.revision, patterns)


def weight_files(folder: Path) -> list[Path]:
    """Return the file of weights, or all files that their index names; they may be missing."""
    index = folder / f"{_WEIGHTS}.index.json"
    if (folder / _WEIGHTS).is_file() or not index.is_file():
        return [folder / _WEIGHTS]
    names = _json(index).get("weight_map")
    return [folder / name for name in sorted(set(names.values()))] if names else []


def _has_small(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _SMALL)


def _is_whole(folder: Path) -> bool:
    return _has_small(folder) and all(path.is_file() for path in weight_files(folder))


def _fetched(model: str, revision: str, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{model}: its owner grants access; ask for it on Hugging Face and log in with "
            "`hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{model}: there is no such model on Hugging Face; correct embed.teacher.weights (a "
            "private model needs `hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"{model}: has no revision {revision}; correct embed.teacher.revision"
        ) from error
    except Exception as error:  # of the network; names, timeouts and proxies share no base
        raise CheckpointError(
            f"{model}: cannot be fetched from Hugging Face ({type(error).__name__}); try again, or "
            "give a folder that holds it and set embed.teacher.revision to null"
        ) from error
    if lacking := [name for name in _SMALL if not (folder / name).is_file()]:
        raise CheckpointError(f"{model} at {revision}: has no {lacking[0]}; take another model")
    return folder


@cache
def _facts(folder: Path) -> Facts:
    found = str(_json(folder / _CONFIG).get("model_type"))
    if found not in FAMILIES:
        raise CheckpointError(
            f"{folder / _CONFIG}: model_type {found!r} is not a known teacher; choose one of "
            f"{', '.join(FAMILIES)}"
        )
    config, family = read_config(folder), FAMILIES[found]
    images = _json(folder / _IMAGES)
    mean, std = images.get("image_mean"), images.get("image_std")
    if not mean or not std:
        raise CheckpointError(f"{folder / _IMAGES}: holds no image_mean and image_std; add them")
    by = images.get("rescale_factor", 1 / 255) if images.get("do_rescale", True) else 1.0
    config = config if hasattr(config, family.widths) else config.vision_config
    widths = getattr(config, family.widths)
    channels = tuple(widths) if isinstance(widths, list | tuple) else (widths,)
    return Facts(
        model_type=found,
        patch_px=0 if family.strides else config.patch_size,
        prefix=0 if family.strides else 1 + getattr(config, "num_register_tokens", 0),
        depth=0 if family.strides else config.num_hidden_layers,
        channels=channels * len(family.strides)
        if len(channels) < len(family.strides)
        else channels,
        mean=tuple(value / by for value in mean),
        std=tuple(value / by for value in std),
    )


def read_config(folder: Path) -> "PreTrainedConfig":
    """Read a model's config.

    Raises:
        CheckpointError: if transformers refuses it.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # of JSON, of the config's own checks
        raise CheckpointError(
            f"{folder / _CONFIG}: is not a config that transformers reads "
            f"({type(error).__name__}); get the file again"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read now ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON; get the file again") from error
    return content if isinstance(content, dict) else {}
