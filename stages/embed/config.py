"""Parameters of stage one; `params.yaml` gives every value (section `embed`)."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from stages.embed.teachers import TeacherConfig
from stages.embed.teachers.teacher import Precision
from stages.embed.tiling import Tile, plan_tiles
from stages.fields import BatchSize, Cores, DeviceName, Domain, Name, Section, Split, distinct
from stages.prepare.geometry import Size
from store.errors import ConfigError
from store.spec import FLIPPED, upright

if TYPE_CHECKING:
    from stages.embed.teachers.encoder import Encoder


class EmbedConfig(Section):
    """Section `embed`."""

    teacher: TeacherConfig = Field(description="The frozen network whose features are stored.")
    levels: Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(distinct)] = Field(
        description="Levels of the teacher to store; those that `train.regularizer.levels` reads."
    )
    domains: Annotated[tuple[Domain, ...], AfterValidator(distinct)] = Field(
        description="Domains to embed. Training reads the source for `source` in "
        "train.regularizer.on, both for `mixed`, train.distill and labels of the store, and "
        "`restyled`, what `ssr restyle` made, for train.restyled.features; `[]` embeds nothing."
    )
    splits: Annotated[tuple[Split, ...], Field(min_length=1), AfterValidator(distinct)] = Field(
        description="Splits to embed; training reads `train`."
    )
    overlap: Annotated[float, Field(ge=0, le=0.5)] = Field(
        description="Least overlap of neighbouring tiles, as a share of the tile."
    )
    flips: Annotated[tuple[Literal["none", "horizontal"], ...], AfterValidator(distinct)] = Field(
        description="`[none]`, or `[none, horizontal]`: mirrored images are embedded too, and "
        "mirrored crops of training read those; twice the time and room."
    )
    batch_tiles: BatchSize = Field(
        description="Most tiles per forward pass, of several images of one shard, at one input "
        "scale and orientation."
    )
    device: DeviceName = Field(description="`auto` takes the GPU where there is one.")
    precision: Precision = Field(
        description="Arithmetic of the forward pass: the halves are faster and less exact; "
        "`float16` needs a GPU, `bfloat16` one, or a CPU with instructions for it."
    )
    compile: bool = Field(
        description="Run the encoder through `torch.compile`: minutes first, then faster on GPUs."
    )
    executor: Literal["serial", "dask"] = Field(
        description="`serial` works in this process; `dask` in several, one per GPU."
    )
    workers: Cores | None = Field(
        description="Processes of `dask` on this machine; null: one per GPU, or as many as its "
        "cores have `threads`."
    )
    scheduler: Annotated[str, Field(pattern=r"^(tcp|tls|ws|wss)://[^/\s]+:\d+$")] | None = Field(
        description="Address of a dask scheduler to join, e.g. tcp://host:8786, whose workers see "
        "the same paths; null starts one here."
    )
    threads: Cores | None = Field(
        description="Cores that each encoder uses on the CPU; null shares all of them among the "
        "workers. Last bits depend on it."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.flips[:1] != ("none",):
            raise ValueError(f"flips {[*self.flips]} does not begin with none, which always counts")
        if self.executor == "serial" and (self.scheduler is not None or self.workers is not None):
            raise ValueError("workers and scheduler are of the executor dask: set embed.executor")
        if self.scheduler is not None and self.workers is not None:
            raise ValueError("the scheduler has workers of its own: set embed.workers to null")
        if self.teacher.known:
            self.require_levels()
        return self

    @property
    def stored_levels(self) -> tuple[str, ...]:
        """Levels of the store: those of the config and, with flips, of mirrored images."""
        mirrored = self.levels if "horizontal" in self.flips else ()
        return (*self.levels, *(level + FLIPPED for level in mirrored))

    def require_levels(self) -> None:
        """Refuse levels that the teacher does not have.

        Raises:
            CheckpointError: for a model whose levels cannot be known.
            ConfigError: for the first such level.
        """
        offered = self.teacher.levels()
        for level in self.levels:
            if level not in offered:
                raise ConfigError(
                    f"the teacher {self.teacher.name} has no level {level}, which embed.levels "
                    f"names; it has {', '.join(offered)}"
                )

    def tiles(self, level: str, size_px: Size) -> tuple[Tile, ...]:
        """Cover an image at a level, in its tokens; levels of one pass have the same tiles.

        Args:
            level: of the teacher, or the same of mirrored images.
            size_px: (height, width) of the working image, multiples of the level's stride.
        """
        offered = self.teacher.levels()
        stride, _, scale = offered[upright(level)]
        # of all that the teacher offers: tiles do not depend on which of them are embedded
        coarsest = max(each.stride_px for each in offered.values() if each.input_scale == scale)
        tile_tok = self.teacher.side_px // round(stride * scale)
        size_tok = size_px[0] // stride, size_px[1] // stride
        return plan_tiles(size_tok, tile_tok, self.overlap, coarsest // stride)

    def load_encoder(self) -> "Encoder":
        """Load the teacher's network onto the device; raises what `network` and `Encoder` do."""
        from stages.device import pick_device
        from stages.embed.teachers.encoder import Encoder

        device = pick_device(self.device, "embed.device")
        network, side_px = self.teacher.network(), self.teacher.side_px
        return Encoder(network, side_px, device, self.precision, compiled=self.compile)
