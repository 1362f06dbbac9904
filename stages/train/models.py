"""The networks of a training run: how they are built, what they set out with, what they take.

Student, EMA model, regulariser and ImageNet reference; the estimate of their memory is made on
PyTorch's meta device.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import SegformerModel
from transformers.models.segformer.modeling_segformer import SegformerDropPath

from stages.prepare.manifest import Domain, Manifest
from stages.student.config import StudentConfig
from stages.student.saved import require_classes
from stages.student.student import Student, build_student, load_student, seeded
from stages.student.weights import is_of_segmenter
from stages.train.config import TrainConfig
from stages.train.ranks import Ranks
from stages.train.regularizers.branch import Branch
from store.errors import CheckpointError, ConfigError, StoreMismatchError
from store.read import FeatureReader
from store.spec import Level

_FLOAT_BYTES: Final = 4

_SAVED_PER_INPUT: Final = 25
"""Numbers that a block of the backbone saves per number of its input, about, *measured*."""
_SAVED_PER_FUSION: Final = 20
"""Bytes per number of a stage's tokens and of the teacher's, projected; *measured* likewise.

Its attention is fused and keeps no scores, which the meta device would.
"""

Network = TypeVar("Network", bound=nn.Module)
T = TypeVar("T")


@dataclass(frozen=True)
class ImageNetReference:
    """The frozen ImageNet backbone that feature distance compares with.

    Attributes:
        backbone: In eval mode, without gradients.
        classes: Train ids of the thing classes.
    """

    backbone: SegformerModel
    classes: Sequence[int]


@dataclass(frozen=True)
class Models:
    """The networks of a run; None where the configuration does without.

    Attributes:
        student: What is trained and handed over.
        ema: Its slowly moving copy, which makes pseudo-labels.
        regularizer: The enhanced branch.
        imagenet: What feature distance compares with.
        ema_branch: The branch's slowly moving copy; it makes the pseudo-labels where there is one.
    """

    student: Student
    ema: Student | None
    regularizer: Branch | None
    imagenet: ImageNetReference | None
    ema_branch: Branch | None = None

    def set_up(self, config: TrainConfig, device: torch.device) -> None:
        """Move to the device, to compute there as `config` says; before there is an optimiser."""
        students = [network for network in (self.student, self.ema) if network is not None]
        for network in students:
            network.to(device)
            if config.channels_last:
                network.lay_channels_last()
            if config.compile:
                network.compile_parts()
        if config.activation_checkpointing:
            self.student.recompute_activations()
        for branch in (self.regularizer, self.ema_branch):
            if branch is not None:
                branch.to(device)
        if self.imagenet is not None:
            self.imagenet.backbone.to(device)


def build_models(
    config: TrainConfig, manifest: Manifest, readers: Mapping[Domain, FeatureReader], ranks: Ranks
) -> tuple[Models, tuple[str, ...], str | None]:
    """Build the networks of a run from its seed.

    Args:
        config: Section `train`.
        manifest: Its classes are those of the logits.
        readers: Stores that the regulariser reads, by domain; empty where there is none.
        ranks: Ranks that may share their batch norms.

    Returns:
        The networks on the CPU; notes on what the parameters asked for and cannot be had; and whose
        weights the student set out from, None where nobody knows.

    Raises:
        CheckpointError: If weights to start from are missing, damaged or of another architecture.
        ConfigError: If a class of feature distance is not one of the data set, or the weights that
            it would compare with are not ImageNet's.
        StoreMismatchError: If the stores are of two teachers.
    """
    weights: str | None = config.student.weights
    with _naming("train.student.weights"):
        student = build_student(config.student, num_classes=len(manifest.classes), seed=config.seed)
    imagenet, notes = _imagenet(config, manifest, student)
    if config.init is not None:
        start = Path(config.init).expanduser()
        weights = _start_from(student, start, config.student, manifest.classes.names)
    regularizer = None
    if readers:
        found = [(teacher_of(reader), _levels_of(config, reader)) for reader in readers.values()]
        if any(other != found[0] for other in found):
            raise StoreMismatchError(
                "the stores of source and target are of two teachers; run `ssr embed`"
            )
        with seeded(config.seed):
            regularizer = config.regularizer.build(student, _channels(found[0][1]))
    if config.sync_batch_norm and ranks.count > 1:
        # Differs from SSR: its batch norms are those of a GPU; this is an option.
        convert = nn.SyncBatchNorm.convert_sync_batchnorm
        student = convert(student)  # type: ignore[no-untyped-call]
    ema = ema_branch = None
    if config.self_training is not None:
        ema = without_noise(deepcopy(student))
        if regularizer is not None and regularizer.labels_target:
            ema_branch = without_noise(deepcopy(regularizer))
    return Models(student, ema, regularizer, imagenet, ema_branch), notes, weights


def without_noise(ema: Network) -> Network:
    """Switch off what is random in the EMA model, and its gradients.

    The rest stays in train mode: its batch norms use the statistics of the target batch and move
    their own running averages, which nothing reads, as officially (DACS).
    """
    ema.train().requires_grad_(False)
    for module in ema.modules():
        if isinstance(module, _DropoutNd | SegformerDropPath):
            module.eval()
    return ema


@dataclass(frozen=True, slots=True)
class TrainMemory:
    """Rough peak of one training step, in bytes.

    Attributes:
        weights: Student, its gradients and two moments of Adam, regulariser likewise.
        copies: The EMA models, and the ImageNet backbone of feature distance.
        activations: What the largest forward pass keeps for its backward pass.
    """

    weights: int
    copies: int
    activations: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.copies + self.activations


def train_memory(
    config: TrainConfig, *, num_classes: int, levels: Mapping[str, Level]
) -> TrainMemory:
    """Estimate the peak; rough, as allocators, kernels and workspaces add to it.

    Args:
        config: Section `train`.
        num_classes: Of the logits.
        levels: Those of the teacher, by name.
    """
    batch, side_px = config.micro_batch_size or config.batch_size, config.crop_px
    drawn = config.student.model_copy(update={"weights": "random"})
    branch = None
    with torch.device("meta"):
        student = build_student(drawn, num_classes=num_classes, seed=0)
        images = torch.empty(batch, 3, side_px, side_px)
        features, backbone = _saved(student, lambda: student.features(images))
        logits, head = _saved(student, lambda: student.classify(features))
        if config.regularizer.on:
            branch = config.regularizer.build(student, _channels(levels))
    head += 3 * _FLOAT_BYTES * logits.numel() * 4**2  # enlarged, their softmax and gradient
    if config.activation_checkpointing:  # inputs are kept, and one head at a time
        activations = backbone // _SAVED_PER_INPUT + head
    else:
        activations = backbone + head + (0 if branch is None else head)
    for maps, level in zip(features, config.regularizer.levels, strict=True):
        if branch is not None and level is not None:
            teacher_numbers = batch * maps.shape[1] * (side_px // levels[level].stride_px) ** 2
            activations += _SAVED_PER_FUSION * (maps.numel() + teacher_numbers)
    learned = _count(student) + _count(branch)
    copies = _count(student) if config.self_training else 0
    if config.self_training and branch is not None and branch.labels_target:
        copies += _count(branch)
    if config.feature_distance is not None and config.student.weights != "random":
        copies += _count(student.backbone)
    return TrainMemory(
        weights=4 * _FLOAT_BYTES * learned,
        copies=_FLOAT_BYTES * copies,
        activations=activations,
    )


def _imagenet(
    config: TrainConfig, manifest: Manifest, student: Student
) -> tuple[ImageNetReference | None, tuple[str, ...]]:
    """Keep the pretrained backbone for feature distance, if it is pretrained."""
    weights = config.student.weights
    if weights != "random" and is_of_segmenter(weights):
        what = f"train.student.weights: {weights} comes with a decode head, so it learned labels"
        if config.feature_distance is not None:
            raise ConfigError(
                f"{what}, and train.feature_distance compares with ImageNet's features; start from "
                "ImageNet's weights, or set train.feature_distance to null"
            )
        return None, (f"{what}, perhaps those of the target",)
    if config.feature_distance is None:
        return None, ()
    if weights == "random":
        return None, ("feature distance is off: train.student.weights is random, not ImageNet's",)
    names = manifest.classes.names
    unknown = [name for name in config.feature_distance.classes if name not in names]
    if unknown:
        raise ConfigError(
            f"train.feature_distance.classes: {', '.join(unknown)} is not a class of this data "
            f"set; its classes are {', '.join(names)}"
        )
    classes = [names.index(name) for name in config.feature_distance.classes]
    backbone = deepcopy(student.backbone).eval().requires_grad_(False)
    return ImageNetReference(backbone, classes), ()


def _start_from(
    student: Student, folder: Path, config: StudentConfig, classes: Sequence[str]
) -> str | None:
    """Copy the weights of an earlier student, for instance one trained on the source only.

    Returns:
        What that student set out from; None where it does not say.
    """
    with _naming("train.init"):
        start, meta = load_student(folder)
        require_classes(meta, classes, origin=str(folder))
    try:
        student.load_state_dict(start.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"train.init: {folder} is another architecture than train.student "
            f"({config.backbone}, {config.head}, {config.head_channels} channels); make them equal"
        ) from error
    weights: str | None = meta.get("weights")
    return weights


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Say which parameter names the checkpoint that is wrong."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from error


def teacher_of(reader: FeatureReader) -> Mapping[str, Any]:
    """Return what `stages.embed` recorded of the teacher."""
    teacher = reader.header.spec.provenance["teacher"]
    assert isinstance(teacher, Mapping)
    return teacher


def _levels_of(config: TrainConfig, reader: FeatureReader) -> dict[str, Level]:
    return {name: reader.header.spec.level(name) for name in config.regularizer.used_levels}


def _channels(levels: Mapping[str, Level]) -> dict[str, int]:
    return {name: level.channels for name, level in levels.items()}


def _count(network: nn.Module | None) -> int:
    return 0 if network is None else sum(each.numel() for each in network.parameters())


def _saved(network: nn.Module, forward: Callable[[], T]) -> tuple[T, int]:
    """Run a forward pass; return its result and the bytes that autograd keeps beside weights."""
    weights = {each.untyped_storage()._cdata for each in network.state_dict().values()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    beside = kept.keys() - weights
    return result, sum(kept[storage].untyped_storage().nbytes() for storage in beside)
