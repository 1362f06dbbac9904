"""Parameters of restyling; `params.yaml` gives every value (section `restyle`)."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stages.fields import Section, Seed, Split
from stages.restyle.mixers import MixerConfig


def _distinct(splits: tuple[Split, ...]) -> tuple[Split, ...]:
    if len(set(splits)) != len(splits):
        raise ValueError(f"names one twice: {list(splits)}")
    return splits


class RestyleConfig(Section):
    """Section `restyle`: images of the source that are also shown in other styles."""

    mixer: MixerConfig = Field(description="What gives an image the style of another.")
    styles: Literal["source", "target"] = Field(
        description="Whose training images the styles are of: `source` needs no target "
        "(*intra-source*), `target` shows the source as the target looks; its labels are not read."
    )
    draws: Annotated[int, Field(ge=1, le=16)] = Field(
        description="Restyled images of each image, of styles drawn at random."
    )
    splits: Annotated[tuple[Split, ...], Field(min_length=1), AfterValidator(_distinct)] = Field(
        description="Splits of the source to restyle: `train.restyled` reads `train`, "
        "`train.validate_on: proxy` reads `val`."
    )
    seed: Seed = Field(description="Seed of the styles and of what a mixer draws.")
