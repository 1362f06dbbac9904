"""Parameters of stage one; `params.yaml` gives every value (section `embed`)."""

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from stages.embed.architectures import ArchitectureName
from stages.prepare.manifest import Domain, Split

DeviceName = Literal["auto", "cpu", "cuda"]
Level = Literal["stride8", "stride16", "stride32"]
Precision = Literal["float32", "bfloat16", "float16"]


_T = TypeVar("_T")


def _distinct(values: tuple[_T, ...]) -> tuple[_T, ...]:
    if len(set(values)) != len(values):
        raise ValueError(f"names one twice: {list(values)}")
    return values


class EmbedConfig(BaseModel):
    """Section `embed`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: ArchitectureName = Field(
        description="SAM's image encoder: `vit_b`, `vit_l`, `vit_h`, or `tiny` for demos and tests."
    )
    weights: Annotated[str, Field(min_length=1)] = Field(
        description="Checkpoint file in the official layout, or `random`: an UNTRAINED TEACHER."
    )
    seed: Annotated[int, Field(ge=0)] = Field(description="Seed of random weights.")
    levels: Annotated[tuple[Level, ...], Field(min_length=1), AfterValidator(_distinct)] = Field(
        description="Feature maps to store; those that `train.regularizer.levels` reads."
    )
    domains: Annotated[tuple[Domain, ...], AfterValidator(_distinct)] = Field(
        description="Domains to embed: both, `[source]` where train.regularizer.on is `[source]`, "
        "`[]` where it is `[]`."
    )
    splits: Annotated[tuple[Split, ...], Field(min_length=1), AfterValidator(_distinct)] = Field(
        description="Splits to embed; training reads `train`."
    )
    overlap: Annotated[float, Field(ge=0, le=0.5)] = Field(
        description="Least overlap of neighbouring tiles, as a share of the tile."
    )
    batch_tiles: Annotated[int, Field(ge=1)] = Field(
        description="Most tiles per forward pass, of several images of one shard, at one level."
    )
    device: DeviceName = Field(description="`auto` takes the GPU where there is one.")
    precision: Precision = Field(
        description="Arithmetic of the forward pass: the halves are faster and less exact; "
        "`float16` needs a GPU, `bfloat16` one, or a CPU with instructions for it."
    )
    compile: bool = Field(
        description="Run the encoder through `torch.compile`: minutes first, then faster on GPUs."
    )
    threads: Annotated[int, Field(ge=1)] | None = Field(
        description="Cores that encode on the CPU; null takes all. Last bits depend on it."
    )
