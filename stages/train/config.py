"""The parameters of training; `params.yaml` gives every value (section `train`)."""

from collections.abc import Iterable
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from stages.fields import (
    BatchSize,
    Cores,
    DeviceName,
    Domain,
    Factor,
    Fraction,
    Name,
    NaturalInt,
    PathText,
    PositiveInt,
    Section,
    Seed,
    SidePx,
    Weight,
    WindowPx,
)
from stages.student.config import StudentConfig
from stages.train.regularizers import RegularizerConfig
from store.errors import ConfigError
from store.spec import Level

FINEST_PX: Final = 4
"""Stride of the student's finest map."""

_BelowOne = Annotated[float, Field(ge=0, lt=1)]


class SelfTrainingConfig(Section):
    """DACS self-training on the target domain (arXiv 2007.08702)."""

    start: NaturalInt = Field(
        description="Iteration at which it begins; before, only the source is trained on (paper 0)."
    )
    ema_decay: Fraction = Field(description="Upper bound of the EMA model's decay (paper 0.999).")
    labels: Literal["ema", "store", "agree"] = Field(
        description="Whose pseudo-labels: `ema` is the averaged model's (paper), `store` those of "
        "`ssr label`, which need no averaged model, `agree` the pixels on which both agree."
    )
    weight: Literal["share", "pixel"] = Field(
        description="Of pseudo-labels: `share` weighs all pixels of a batch by the share of them "
        "that is confident (paper), `pixel` each by its own probability, without a threshold."
    )
    threshold: Fraction = Field(description="Probability that counts as confident (paper 0.968).")
    ignore_top_px: NaturalInt = Field(
        description="Rows at the top of the resized target image without pseudo-labels (paper 15)."
    )
    ignore_bottom_px: NaturalInt = Field(
        description="Rows at its bottom without pseudo-labels (paper 120)."
    )
    class_pool: Literal["batch", "image"] = Field(
        description="ClassMix draws from the classes of the whole batch (official) or of the image."
    )
    jitter_probability: Fraction = Field(
        description="Share of iterations with colour jitter (paper 0.8: its config's 0.2 is 1 - p)."
    )
    jitter_strength: Fraction = Field(description="Strength of all four jitters (paper 0.2).")
    blur_probability: Fraction = Field(description="Share of iterations with blur (paper 0.5).")


class MaskingConfig(Section):
    """Masked image consistency, MIC (arXiv 2212.01322)."""

    block_px: SidePx = Field(description="Side of a hidden block (paper 32 at 512 px crops).")
    ratio: Fraction = Field(description="Share of hidden blocks (paper 0.7).")
    weight: Weight = Field(description="Weight of its loss (paper 1).")


class RareClassConfig(Section):
    """Rare class sampling of source images (DAFormer, arXiv 2111.14887)."""

    temperature: Factor = Field(
        description="Softmax temperature; small favours rare classes (paper 0.01)."
    )
    min_pixels: NaturalInt = Field(
        description="An image offers a class with more raw pixels of it than this (paper 3000)."
    )
    min_crop_ratio: Weight = Field(
        description="A crop needs more than this times min_pixels of the class (paper 0.5)."
    )


class FeatureDistanceConfig(Section):
    """Distance to ImageNet features on thing classes (DAFormer)."""

    weight: Factor = Field(description="Weight of its loss (paper 0.005).")
    classes: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Names of the thing classes."
    )
    min_share: Fraction = Field(
        description="Share of a cell that one class must fill to count (paper 0.75)."
    )


class DistillConfig(Section):
    """Distillation of stored features into the student, before it learns a task (after GKD)."""

    kind: Literal["regress", "query"] = Field(
        description="`regress`: stages predict the teacher's tokens where they lie; `query`: they "
        "ask for them, by attention over those of the crop (after GKD, arXiv 2603.02554)."
    )
    steps: PositiveInt = Field(
        description="Optimiser steps before the task, on source and target, without labels; they "
        "have the optimiser's schedule to themselves."
    )
    levels: tuple[Name | None, Name | None, Name | None, Name | None] | None = Field(
        description="Level that each of the four stages learns, as the stores name it; a stage "
        "with null learns none. null as a whole: those of regularizer.levels."
    )
    loss: Literal["cosine", "mse"] = Field(
        description="Distance to the teacher's standardised tokens: of their directions, or mean "
        "square."
    )
    freeze: NaturalInt = Field(
        description="First iterations of the task, in which the backbone's weights stay as they "
        "are; 0 is off."
    )
    keep: Weight = Field(
        description="Weight of the same loss on target images during the task; 0 is off."
    )


class RestyledConfig(Section):
    """Restyled images of the source in training (after ISSA, arXiv 2307.00648)."""

    probability: Fraction = Field(
        description="Share of source crops that are cut from a restyled image; 0 is none."
    )
    features: Literal["clean", "restyled"] = Field(
        description="Whose features come with such a crop: `clean`, those of the image as it was, "
        "or `restyled`, its own."
    )


class OptimizerConfig(Section):
    """AdamW with linear warm-up and polynomial decay."""

    lr: Annotated[float, Field(gt=0, le=1)] = Field(description="Base learning rate (paper 6e-5).")
    head_lr_factor: Factor = Field(
        description="Multiplies it for the head and for what distillation adds (paper 10)."
    )
    regularizer_lr_factor: Factor = Field(
        description="Multiplies it for the regulariser (official 1)."
    )
    weight_decay: Fraction = Field(
        description="Decay of all but Rein's tokens, the norms outside the head, and the norms and "
        "embeddings of head `mask2former` (paper 0.01)."
    )
    betas: tuple[_BelowOne, _BelowOne] = Field(description="Adam's moments (paper 0.9, 0.999).")
    warmup_iterations: NaturalInt = Field(description="Length of the warm-up (paper 1500).")
    warmup_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        description="Share of the learning rate at iteration 0 (paper 1e-6)."
    )
    power: Weight = Field(description="Power of the decay (paper 1).")


class TrainConfig(Section):
    """Section `train`."""

    seed: Seed = Field(description="Seed of initial weights, sampling and augmentation.")
    init: PathText | None = Field(
        description="Folder of a student of this project to start from; null starts from "
        "`student.weights`. Arms of a comparison start from the same source-only student."
    )
    iterations: NaturalInt = Field(
        description="Optimiser steps of the task (paper 40000); 0 with `distill` alone."
    )
    batch_size: BatchSize = Field(
        description="Images per step and domain, of all GPUs together (paper 2)."
    )
    crop_px: WindowPx = Field(description="Side of the square training crop (paper 512).")
    crop_align_px: Literal[8, 16, 32] = Field(
        description="Crop origins are multiples of this; at least the stride of the coarsest "
        "level in use, and equal in all arms that are compared."
    )
    crop_max_class_share: Annotated[float, Field(gt=0, le=1)] = Field(
        description="Source crops with one class above this are drawn again (paper 0.75, 1 = off)."
    )
    flip_probability: Fraction = Field(description="Share of mirrored crops (paper 0.5).")
    student: StudentConfig = Field(description="The network.")
    regularizer: RegularizerConfig = Field(
        description="How teacher features take part in training; gone at inference."
    )
    distill: DistillConfig | None = Field(
        description="Distillation of stored features before the task; null is off. Needs both "
        "domains; iterations count on from its steps."
    )
    restyled: RestyledConfig | None = Field(
        description="Source crops from what `ssr restyle` made; null takes all from the images as "
        "they are."
    )
    self_training: SelfTrainingConfig | None = Field(
        description="Self-training on the target; null trains on the source alone."
    )
    masking: MaskingConfig | None = Field(description="Masked image consistency; null is off.")
    rare_class_sampling: RareClassConfig | None = Field(
        description="Rare class sampling of the source; null draws images uniformly."
    )
    feature_distance: FeatureDistanceConfig | None = Field(
        description="Distance to ImageNet features; null is off, as with random weights."
    )
    optimizer: OptimizerConfig = Field(description="AdamW and its schedule.")
    device: DeviceName = Field(description="`auto` takes the GPU where there is one.")
    sync_batch_norm: bool = Field(
        description="Batch statistics of all GPUs' images, not of each GPU's own (official false)."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        description="Of the networks' forward passes; `bfloat16` is autocast, with weights, "
        "softmax, threshold, cross entropy and distances in float32; slow on a CPU without "
        "instructions for it."
    )
    matmul: Literal["highest", "tf32"] = Field(
        description="What float32 is on a GPU, in products and convolutions alike: `highest` is "
        "float32, `tf32` has 10 bits of mantissa and is faster.",
    )
    cuda_graphs: Literal["auto", "off"] = Field(
        description="On a GPU, `auto` records a step as a CUDA graph, launched as one: several "
        "times faster, with the same results; the memory of a step stays taken.",
    )
    compile: bool = Field(
        description="Run the student through torch.compile: minutes at the start, faster after; "
        "results differ by rounding and in the noise of dropout and stochastic depth."
    )
    activation_checkpointing: bool = Field(
        description="Compute activations of blocks and head again for the backward pass instead of "
        "keeping them: a third more time for a fraction of the memory, and the same results."
    )
    micro_batch_size: BatchSize | None = Field(
        description="Images per forward and backward pass, a divisor of batch_size; gradients add "
        "up to those of the batch but for batch norms, which see this many, and for the loss of "
        "head `mask2former`, which counts the masks of each pass; null is batch_size."
    )
    threads: Cores | None = Field(
        description="CPU threads of the training process; null leaves it to PyTorch, which takes "
        "all cores, and sums round differently with another number."
    )
    workers: Annotated[int, Field(ge=0, le=1024)] = Field(
        description="Loader processes of each GPU; 0 loads in the training process."
    )
    prefetch: Cores = Field(
        description="Batches that each loader process reads ahead; unused with 0 workers."
    )
    log_every: PositiveInt = Field(
        description="Iterations between rows of runs/curves.csv and runs/health.csv."
    )
    log_to: tuple[Literal["dvclive", "tensorboard"], ...] = Field(
        description="Tools that get these rows and the validations too: `dvclive` in runs/live, "
        "`tensorboard` in runs/tensorboard."
    )
    checkpoint_every: PositiveInt = Field(description="Iterations between checkpoints.")
    validate_every: NaturalInt = Field(
        description="Iterations between validations, whose best student is kept in runs/best; 0 is "
        "never."
    )
    validate_on: Literal["target", "source", "proxy"] = Field(
        description="What validates, of the val splits: `target`, its labelled images if there are "
        "any, else the source's; `source`; or `proxy`, the source's as `ssr restyle` made them, "
        "which stand in for the target without a label of it."
    )

    @property
    def distill_steps(self) -> int:
        """Steps before the first iteration of the task."""
        return 0 if self.distill is None else self.distill.steps

    @property
    def total_steps(self) -> int:
        """Steps of the distillation and of the task."""
        return self.distill_steps + self.iterations

    @property
    def distilled_levels(self) -> tuple[str | None, ...]:
        """Level that each stage learns; none where distillation is off."""
        if self.distill is None:
            return ()
        return self.distill.levels or self.regularizer.levels

    @property
    def used_levels(self) -> tuple[str, ...]:
        """Levels that training reads, each once."""
        distilled = [level for level in self.distilled_levels if level]
        return tuple(dict.fromkeys((*self.regularizer.used_levels, *distilled)))

    @property
    def read_domains(self) -> tuple[Domain, ...]:
        """Domains whose features training reads."""
        if not (self.distill or self.regularizer.on):
            return ()
        sees_target = self.distill or "mixed" in self.regularizer.on
        domains: tuple[Domain, ...] = ("source", "target") if sees_target else ("source",)
        of_restyled = self.restyled is not None and self.restyled.features == "restyled"
        return (*domains, "restyled") if of_restyled else domains

    @property
    def reads_prefixes(self) -> bool:
        """Whether training goes on from what `ssr embed` stores of the first blocks."""
        return self.student.rein is not None and self.student.rein.views is not None

    @property
    def reads_labels(self) -> bool:
        """Whether pseudo-labels come from the store, alone or beside others."""
        return self.self_training is not None and self.self_training.labels != "ema"

    def require_aligned(self, levels: Iterable[Level]) -> None:
        """Refuse origins of crops that are between the tokens of levels that are read.

        Raises:
            ConfigError: `crop_align_px` is not a multiple of a stride.
        """
        stride_px = max((level.stride_px for level in levels), default=1)
        if self.crop_align_px % stride_px:
            raise ConfigError(
                f"train.crop_align_px {self.crop_align_px} is not a multiple of {stride_px} px, "
                f"the coarsest stride that training reads; set it to {stride_px}"
            )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.total_steps:
            raise ValueError("iterations is 0, and distill is null: there is nothing to train")
        if self.distill and not any(self.distilled_levels):
            raise ValueError("distill.levels are all null; set distill: null instead")
        if self.self_training is None and "mixed" in self.regularizer.on:
            raise ValueError(
                "regularizer.on has `mixed`, but self_training is null: there are no mixed images"
            )
        if self.self_training is None and self.masking is not None:
            raise ValueError("masking needs self_training, which is null")
        for key in ("compile", "activation_checkpointing", "feature_distance"):
            if self.student.rein and getattr(self, key):
                off = "null" if key == "feature_distance" else "false"
                raise ValueError(f"{key} is not for student.backbone rein_vfm; set it to {off}")
        for key in ("self_training", "distill", "restyled"):
            if self.student.rein and self.student.rein.views and getattr(self, key):
                raise ValueError(
                    f"{key} sees other images than the fixed views of student.rein.views; set one "
                    "of them to null"
                )
        if self.student.head == "mask2former" and (self.self_training or self.regularizer.on):
            raise ValueError(
                "student.head mask2former learns from whole label maps, without a weight for each "
                "pixel: set self_training to null and regularizer.on to [], or head to daformer"
            )
        if self.compile and self.activation_checkpointing:
            raise ValueError(
                "compile chooses itself which activations to keep; set activation_checkpointing "
                "or compile to false"
            )
        if (hrda := self.student.hrda) and self.crop_px < 64:
            raise ValueError("student.hrda halves crops: raise crop_px to 64 or more")
        if hrda and hrda.detail_px > self.crop_px:
            raise ValueError(
                f"student.hrda.detail_px {hrda.detail_px} is more than crop_px {self.crop_px}; "
                "lower it to half of that, as published, or raise crop_px"
            )
        if hrda and self.regularizer.on and not self.regularizer.two_scales:
            raise ValueError(
                f"regularizer.kind {self.regularizer.kind} has a head of its own for one scale; "
                "set student.hrda to null, or the kind to ssr"
            )
        if hrda and self.feature_distance is not None and self.crop_px % 64:
            raise ValueError(
                f"feature_distance with student.hrda looks at cells of 64 px: crop_px "
                f"{self.crop_px} is not a multiple; change it, or set feature_distance to null"
            )
        least_px = min(self.crop_px // 2, hrda.detail_px) if hrda else self.crop_px
        finest, semask = least_px // FINEST_PX, self.student.semask
        if semask and (semask.window or 0) > finest:
            raise ValueError(
                f"student.semask.window {semask.window} is more than the side of the finest map, "
                f"{finest} cells for {least_px} px; lower it, or set it to null"
            )
        if self.batch_size % (self.micro_batch_size or 1):
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} is not a divisor of batch_size "
                f"{self.batch_size}"
            )
        is_normed = self.student.backbone.startswith("efficientnet")
        if is_normed and least_px == 32 and (self.micro_batch_size or self.batch_size) == 1:
            raise ValueError(
                "batch norm of EfficientNet needs more than one value: raise crop_px, "
                "student.hrda.detail_px or batch_size"
            )
        return self
