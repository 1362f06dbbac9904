"""SAM's image encoders, `kind: sam`: their sizes and levels; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field

from stages.embed.teachers.teacher import Precision, Teacher, TeacherLevel
from stages.fields import DeviceName, PathText, Seed
from stages.prepare.pixels import MEAN, STD

if TYPE_CHECKING:  # torch
    from stages.embed.teachers.sam_encoder import SamEncoder

ArchitectureName = Literal["tiny", "vit_b", "vit_l", "vit_h"]

NORM_EPS: Final = 1e-6
"""Epsilon of every LayerNorm in the blocks, as in `segment_anything.build_sam`."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Arguments of the official `ImageEncoderViT` that tell one encoder from another.

    Attributes:
        name: name in params, store and messages.
        side_px: side of the square input; the encoder takes no other size.
        patch_px: input pixels per token.
        width: channels of the transformer blocks.
        depth: number of blocks.
        heads: attention heads per block.
        mlp_ratio: hidden width of the MLP, in units of `width`.
        window_tok: side of the attention windows; `side_px / patch_px` need not be a multiple.
        global_blocks: blocks that attend to the whole grid instead of windows.
        channels: channels of the output, after the neck.
    """

    name: str
    side_px: int
    patch_px: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    window_tok: int
    global_blocks: tuple[int, ...]
    channels: int


def _sam(
    name: str, width: int, depth: int, heads: int, global_blocks: tuple[int, ...]
) -> Architecture:
    return Architecture(
        name=name,
        side_px=1024,
        patch_px=16,
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=4.0,
        window_tok=14,
        global_blocks=global_blocks,
        channels=256,
    )


# The three of `segment_anything.build_sam`, and a small one of the same class for demo and tests:
# its 16x16 grid is no multiple of its window either, and a tile takes some 8 ms on one CPU core.
ARCHITECTURES: Final[dict[ArchitectureName, Architecture]] = {
    "tiny": Architecture(
        name="tiny",
        side_px=256,
        patch_px=16,
        width=96,
        depth=4,
        heads=3,
        mlp_ratio=4.0,
        window_tok=7,
        global_blocks=(1, 3),
        channels=64,
    ),
    "vit_b": _sam("vit_b", 768, 12, 12, (2, 5, 8, 11)),
    "vit_l": _sam("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": _sam("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
}


class SamTeacher(Teacher):
    """SAM's image encoder: one level per pass, its image enlarged so that a patch is a token."""

    mean: ClassVar[tuple[float, float, float]] = MEAN
    std: ClassVar[tuple[float, float, float]] = STD

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
    def size(self) -> Architecture:
        """Arguments of the encoder."""
        return ARCHITECTURES[self.architecture]

    @property
    def side_px(self) -> int:
        """Side of the square input."""
        return self.size.side_px

    @property
    def patch_px(self) -> int:
        """Input pixels per token."""
        return self.size.patch_px

    def levels(self) -> dict[str, TeacherLevel]:
        """Return SSR's three levels: the same network on the image at three scales."""
        patch_px, channels = self.patch_px, self.size.channels
        return {f"stride{n}": TeacherLevel(n, channels, patch_px / n) for n in (8, 16, 32)}

    def weights_identity(self) -> dict[str, Any]:
        """Return the hash of the file, or how random weights are drawn."""
        if self.trained:
            return super().weights_identity()
        return {"seed": self.seed, "torch": version("torch")}

    def identity(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return what its features depend on."""
        return {
            "kind": self.kind,
            "architecture": self.architecture,
            **weights,
            "trained": self.trained,
            "side_px": self.side_px,
            "patch_px": self.patch_px,
            "channels": self.size.channels,
        }

    def load(
        self, device: DeviceName, precision: Precision, *, compiled: bool = False
    ) -> "SamEncoder":
        """Load or draw the weights; see `Teacher.load`."""
        from stages.device import pick_device
        from stages.embed.teachers.sam_encoder import SamEncoder, draw_encoder, load_encoder

        encoder = (
            load_encoder(self.size, self.path)
            if self.trained
            else draw_encoder(self.size, self.seed)
        )
        return SamEncoder(
            encoder, pick_device(device, "embed.device"), precision, compiled=compiled
        )
