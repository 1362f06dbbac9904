"""The drawn world: images that the package `examples.drawn` draws when they are first listed."""

from typing import ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from stages.fields import Seed
from stages.prepare.datasets.dataset import Dataset, Listing, Progress
from stages.prepare.labels import named_as_in_cityscapes, train_id_table
from store.errors import ConfigError

DRAWN: Final = named_as_in_cityscapes(
    {
        "sky": "sky",
        "road": "road",
        "pavement": "sidewalk",
        "building": "building",
        "tree": "vegetation",
        "pole": "pole",
        "sign": "traffic sign",
        "fence": "fence",
        "car": "car",
        "person": "person",
        "bicycle": "bicycle",
    }
)
"""The 11 classes of the drawn world, in Cityscapes' colours."""


class Config(Dataset):
    """A street world that is drawn into `root` on first use."""

    terms: ClassVar = "drawn by this project, Apache-2.0"
    class_table: ClassVar = DRAWN

    kind: Literal["drawn"] = Field(description="Which dataset this is.")
    style: Literal["day", "dusk", "fog", "night", "wide"] = Field(
        description="Light, colours and textures: `day`, a target (`dusk`, `fog`, `night`), or "
        "`wide`, another random look for each image with the neighbourhood of the targets left out."
    )
    strength: float = Field(
        ge=0,
        le=1,
        description="How far a target's style is from the day: 1 is the whole of it, 0 is the day; "
        "1 with `day` and `wide`.",
    )
    seed: Seed = Field(description="Of the scenes; two seeds have no scene in common.")
    width_px: int = Field(ge=64, le=4096, description="Width of the drawn images.")
    height_px: int = Field(ge=64, le=4096, description="Height of the drawn images.")
    train: int = Field(ge=1, le=100_000, description="Number of images to train on.")
    val: int = Field(ge=0, le=100_000, description="Number of labelled images to evaluate on.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.strength != 1 and self.style in {"day", "wide"}:
            raise ValueError(
                f"strength is of the styles dusk, fog and night: set it to 1 with {self.style}"
            )
        return self

    def scan(self, progress: Progress) -> Listing:
        """List the images of the world, drawing those that are not there yet.

        Raises:
            ConfigError: The package is not there; it comes with a checkout of the repository.
        """
        try:
            from examples.drawn import folders
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"kind drawn: there is no package {error.name}, which draws the images: install "
                "this project from a checkout (`pip install -e .`)"
            ) from error
        return Listing(DRAWN, train_id_table(DRAWN), folders.fill(self, progress=progress))
