"""SAM as a teacher, `kind: sam`; no torch."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stages.embed.teachers.sam_sizes import ARCHITECTURES, Architecture, ArchitectureName
from stages.embed.teachers.teacher import RGB, Teacher, TeacherLevel
from stages.fields import PathText, Seed
from stages.prepare.pixels import MEAN, STD

if TYPE_CHECKING:
    from torch import nn


class SamTeacher(Teacher):
    """SAM's image encoder: one level per pass, its image enlarged so that a patch is a token."""

    kind: Literal["sam"] = Field(description="SAM's image encoder.")
    architecture: ArchitectureName = Field(
        description="`vit_b`, `vit_l`, `vit_h`, or `tiny` for demos and tests."
    )
    weights: PathText = Field(
        description="Checkpoint file in the official layout, as `examples/drawn/teacher.pth`, a "
        "`tiny` teacher of the drawn world; or `random`: an UNTRAINED TEACHER."
    )
    seed: Seed = Field(description="Seed of random weights.")

    @property
    def name(self) -> str:
        """The architecture."""
        return self.architecture

    @property
    def missing(self) -> str:
        """The file, and where to get it."""
        return (
            f"{self.weights}: no such weight file; download it to there (addresses: "
            "github.com/facebookresearch/segment-anything), or set embed.teacher.weights to another"
        )

    @property
    def size(self) -> Architecture:
        """Arguments of the encoder."""
        return ARCHITECTURES[self.architecture]

    @property
    def side_px(self) -> int:
        """Side of the square input."""
        return self.size.side_px

    def levels(self) -> dict[str, TeacherLevel]:
        """Return SSR's three levels: the same network on the image at three scales."""
        size = self.size
        return {
            f"stride{n}": TeacherLevel(n, size.channels, size.patch_px / n) for n in (8, 16, 32)
        }

    def macs_per_tile(self) -> int:
        """Count them on the meta device."""
        from stages.embed.teachers.sam_encoder import macs_per_tile

        return macs_per_tile(self.architecture)

    def weights_identity(self) -> dict[str, Any]:
        """Return the hash of the file, or how random weights are drawn."""
        if self.trained:
            return super().weights_identity()
        return {"seed": self.seed, "torch": version("torch")}

    def normalisation(self, weights: Mapping[str, Any]) -> tuple[RGB, RGB]:
        """Return ImageNet's, with which SAM was trained."""
        return MEAN, STD

    def identity(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return what its features depend on."""
        return {
            "kind": self.kind,
            "architecture": self.architecture,
            **weights,
            "trained": self.trained,
            "side_px": self.side_px,
            "patch_px": self.size.patch_px,
            "channels": self.size.channels,
        }

    def network(self) -> "nn.Module":
        """Load or draw the weights."""
        from stages.embed.teachers.sam_encoder import draw_encoder, fuse_attention, load_encoder

        if self.trained:
            return fuse_attention(load_encoder(self.size, self.path))
        return fuse_attention(draw_encoder(self.size, self.seed))
