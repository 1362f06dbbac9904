"""Models in Hugging Face's format as teachers, `kind: hf`: no remote code."""

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field

from stages.embed.teachers.teacher import RGB, Teacher, TeacherLevel, file_sha256
from stages.fields import Name, PathText
from stages.hf_models import (
    CONFIG,
    FAMILIES,
    IMAGES,
    SMALL,
    WEIGHTS,
    Facts,
    cached,
    config_digest,
    facts_of,
    fetched,
    has_small,
    is_whole,
    load_model,
    weight_files,
)
from store.errors import CheckpointError, ConfigError
from store.fingerprint import fingerprint_of

if TYPE_CHECKING:
    from torch import nn

_PYRAMID_MULTIPLE_PX: Final = 32
_VIT_STRIDES: Final = (8, 16, 32)


class HfTeacher(Teacher):
    """A ViT at SSR's three strides, or a pyramid whose maps come from one pass.

    A ViT's levels are `stride8`, `stride16` and `stride32`, the same network on the image at three
    scales, followed by `_block5` where block 5 is tapped and not the last one.
    """

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
        return self._found(is_whole) is not None

    @property
    def known(self) -> bool:
        """Whether the small files are there."""
        return self._found(has_small) is not None

    @property
    def missing(self) -> str:
        """The folder or the id, and what to do."""
        if self.revision is None:
            return (
                f"{self.weights}: not a folder with {CONFIG}, {IMAGES} and {WEIGHTS}; correct "
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
        return facts_of(self._folder(has_small))

    def levels(self) -> dict[str, TeacherLevel]:
        """Return the levels; see `Teacher.levels`."""
        return {name: level for name, (level, _) in self._maps(self.facts()).items()}

    def _maps(self, facts: Facts) -> dict[str, tuple[TeacherLevel, int]]:
        """Return each level, and its place among the maps that one pass makes."""
        self._require_fit(facts)
        if facts.family.strides:
            of_map = zip(facts.family.strides, facts.channels, strict=False)
            return {
                f"stride{stride}": (TeacherLevel(stride, channels, 1.0), place)
                for place, (stride, channels) in enumerate(of_map)
            }
        maps = {}
        for stride, (place, tap) in product(_VIT_STRIDES, enumerate(self.taps)):
            level = TeacherLevel(stride, facts.channels[0], facts.patch_px / stride)
            maps[f"stride{stride}" + ("" if tap == "last" else f"_block{tap}")] = level, place
        return maps

    def weights_identity(self) -> dict[str, Any]:
        """Return family, hash of the weights, normalisation and licence."""
        facts, folder = self.facts(), self._folder(is_whole)
        digests = {path.name: file_sha256(path) for path in weight_files(folder)}
        return {
            "architecture": facts.model_type,
            "config": config_digest(folder),
            "weights_sha256": digests.get(WEIGHTS) or fingerprint_of(digests),
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

    def network(self) -> "nn.Module":
        """Load the model."""
        from stages.embed.teachers.encoder import HfNetwork

        facts = self.facts()
        places = {name: place for name, (_, place) in self._maps(facts).items()}
        model = load_model(self._folder(is_whole), facts, name=self.name)
        blocks = [facts.depth - 1 if tap == "last" else tap for tap in self.taps]
        return HfNetwork(model, facts, blocks, places, norm=self.norm)

    def _require_fit(self, facts: Facts) -> None:
        """Refuse taps that the model does not have, and pixels that it would drop silently."""
        what = f"embed.teacher: {self.name} ({facts.model_type})"
        absent = [tap for tap in self.taps if tap != "last" and tap >= facts.depth]
        if facts.depth and absent:
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

    def _found(self, complete: Callable[[Path], bool]) -> Path | None:
        """Return the folder of the model, which for an id is in the cache, where it is complete."""
        folder = self.path if self.revision is None else cached(self.weights, self.revision)
        return folder if folder is not None and complete(folder) else None

    def _folder(self, complete: Callable[[Path], bool]) -> Path:
        """Return the folder of the model; of an id, with files fetched that the cache lacks."""
        if (found := self._found(complete)) is not None:
            return found
        folder = self.path
        if self.revision is not None:
            patterns = SMALL if complete is has_small else (*SMALL, "*.safetensors*")
            folder = fetched(self.weights, self.revision, patterns)
        elif not has_small(folder):
            raise CheckpointError(self.missing)
        if not complete(folder):
            raise CheckpointError(
                f"{self.name}: has no {WEIGHTS}; other formats are not read, as they can run code"
            )
        return folder
