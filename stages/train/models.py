"""The networks of a training run: how they are built and what they set out with."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from transformers.models.segformer.modeling_segformer import SegformerDropPath

from stages.prepare.manifest import Domain, Manifest
from stages.student.config import StudentConfig
from stages.student.query_head import require_matching
from stages.student.rein_vfm import ReinBackbone
from stages.student.saved import require_classes
from stages.student.student import StagedBackbone, Student, build_student, load_student, seeded
from stages.student.weights import is_of_segmenter
from stages.train.config import TrainConfig
from stages.train.distill import Distiller, moments_of
from stages.train.ranks import Ranks
from stages.train.regularizers.branch import Branch
from store.errors import CheckpointError, ConfigError, StoreMismatchError
from store.read import FeatureReader
from store.spec import StoreSpec

log = logging.getLogger(__name__)

ADDED: Final = ("semantic.", "attention.")
"""What a student may have beyond the one that it starts from; it begins as it was drawn."""

Network = TypeVar("Network", bound=nn.Module)


class HalfCopies:
    """Gradients of the weights of all networks, and copies of weights in bfloat16, if any."""

    def __init__(self) -> None:
        self._weights: list[nn.Parameter] = []
        self._places: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        self._copies: dict[nn.Parameter, nn.Parameter] = {}

    def add(self, network: nn.Module, *, halve: bool) -> None:
        """Look after a network's gradients; `halve` copies its weights, where they are by now.

        Copied are weights and biases of linear layers and convolutions.
        """
        self._weights += [weight for weight in network.parameters() if weight.requires_grad]
        for module in network.modules() if halve else ():
            if not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            for name, weight in module.named_parameters(recurse=False):
                if weight not in self._copies:
                    half = weight.detach().to(torch.bfloat16)
                    self._copies[weight] = nn.Parameter(half, weight.requires_grad)
                self._places.append((module, name, weight, self._copies[weight]))

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights again, after they moved."""
        if self._copies:
            torch._foreach_copy_(list(self._copies.values()), list(self._copies))

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let copies stand in for their weights; add gradients to the earlier ones at the end.

        Weights have no gradients meanwhile, so that all of them are added up at once.
        """
        earlier = {w: w.grad for w in self._weights if w.grad is not None}
        for weight in earlier:
            weight.grad = None
        for module, name, _, copy in self._places:
            module._parameters[name] = copy
        try:
            yield
        finally:
            for module, name, weight, _copy in self._places:
                module._parameters[name] = weight
        halves = {w: copy.grad for w, copy in self._copies.items() if copy.grad is not None}
        gradients = [torch.empty_like(weight) for weight in halves]
        with torch.no_grad():
            if halves:
                torch._foreach_copy_(gradients, list(halves.values()))
            for weight in halves:
                self._copies[weight].grad = None
            _add_to_weights(dict(zip(halves, gradients, strict=True)))
            _add_to_weights(earlier)


def _add_to_weights(gradients: Mapping[nn.Parameter, Tensor]) -> None:
    sums = [weight.grad for weight in gradients if weight.grad is not None]
    terms = [gradient for weight, gradient in gradients.items() if weight.grad is not None]
    for weight, gradient in gradients.items():
        if weight.grad is None:
            weight.grad = gradient
    if sums:
        torch._foreach_add_(sums, terms)


@dataclass(frozen=True)
class ImageNetReference:
    """The frozen ImageNet backbone that feature distance compares with on cells of `classes`."""

    backbone: StagedBackbone
    classes: Sequence[int]


@dataclass(frozen=True)
class Models:
    """The networks of a run; None where the configuration does without."""

    student: Student
    ema: Student | None  # its slowly moving copy, which makes pseudo-labels unless another does
    regularizer: Branch | None
    imagenet: ImageNetReference | None
    ema_branch: Branch | None = None  # the regulariser's slowly moving copy
    distiller: Distiller | None = None
    half: HalfCopies = field(default_factory=HalfCopies)

    def set_up(self, config: TrainConfig, device: torch.device) -> None:
        """Move to the device, to compute there as `config` says; before there is an optimiser."""
        imagenet = None if self.imagenet is None else self.imagenet.backbone
        branches = (self.regularizer, self.ema_branch, self.distiller)
        for network in (self.student, self.ema, *branches, imagenet):
            if network is None:
                continue
            network.to(device)
            if isinstance(network, Student) and config.compile:
                network.compile_parts()
            self.half.add(network, halve=config.precision == "bfloat16")
        if config.activation_checkpointing:
            self.student.recompute_activations()


def build_models(
    config: TrainConfig, manifest: Manifest, readers: Mapping[Domain, FeatureReader], ranks: Ranks
) -> tuple[Models, Mapping[str, Any]]:
    """Build the networks of a run from its seed, on the CPU.

    Returns:
        The networks; and what the student set out from, as its card tells: `weights`, and the
        teacher of its start.

    Raises:
        CheckpointError: If weights to start from are missing, damaged or of another architecture.
        ConfigError: If a class of feature distance is not one of the data set, or the weights that
            it would compare with are not ImageNet's; or if a package is missing.
        StoreMismatchError: If the stores are of two teachers.
    """
    if config.student.head == "mask2former":
        require_matching()
    origin: Mapping[str, Any] = {"weights": config.student.weights}
    with _naming("train.student.weights"):
        student = build_student(config.student, num_classes=len(manifest.classes), seed=config.seed)
    imagenet = _imagenet(config, manifest, student)
    if config.init is not None:
        start = Path(config.init).expanduser()
        origin = _start_from(student, start, config.student, manifest.classes.names)
    channels = _teacher_channels(config, readers)
    regularizer = distiller = None
    if config.distill is not None:
        if not any(weight.requires_grad for weight in student.backbone.parameters()):
            raise ConfigError(
                "train.distill has no weight of the backbone to teach: lower "
                "train.student.rein.from_block, or set distill to null"
            )
        levels = config.distilled_levels
        moments = {level: moments_of(readers.values(), level) for level in levels if level}
        with seeded(config.seed):
            distiller = Distiller(student.channels, levels, moments, config.distill)
    if config.regularizer.on:
        channels = {name: channels[name] for name in config.regularizer.used_levels}
        refine = config.regularizer.refine
        with seeded(config.seed):
            regularizer = config.regularizer.build(student, channels)
            if refine is not None:  # last, so that the others' draws stay
                regularizer.add_refiner(refine.tokens, refine.rank, channels)
    if config.sync_batch_norm and ranks.count > 1:
        # Differs from SSR: its batch norms are those of a GPU; this is an option.
        convert = nn.SyncBatchNorm.convert_sync_batchnorm
        student = convert(student)  # type: ignore[no-untyped-call]
    ema = ema_branch = None
    if config.self_training is not None and config.self_training.labels != "store":
        ema = without_noise(deepcopy(student))
        if regularizer is not None and regularizer.labels_target:
            ema_branch = without_noise(deepcopy(regularizer))
    return Models(student, ema, regularizer, imagenet, ema_branch, distiller), origin


def _teacher_channels(
    config: TrainConfig, readers: Mapping[Domain, FeatureReader]
) -> dict[str, int]:
    """Return the channels of the levels that training reads, which must be of one teacher."""
    specs = [reader.header.spec for reader in readers.values()]
    used = [{name: spec.level(name) for name in config.used_levels} for spec in specs]
    teachers = [teacher_of(spec) for spec in specs]
    if teachers[1:] != teachers[:-1] or used[1:] != used[:-1]:
        raise StoreMismatchError(
            "the stores of source and target are of two teachers; run `ssr embed`"
        )
    return {name: level.channels for each in used for name, level in each.items()}


def without_noise(ema: Network) -> Network:
    """Switch off what is random in the EMA model, and its gradients.

    The rest stays in train mode: its batch norms use the statistics of the target batch, as
    officially (DACS).
    """
    ema.train().requires_grad_(False)
    for module in ema.modules():
        if isinstance(module, _DropoutNd | SegformerDropPath):
            module.eval()
    return ema


def _imagenet(
    config: TrainConfig, manifest: Manifest, student: Student
) -> ImageNetReference | None:
    """Keep the pretrained backbone for feature distance, if it is pretrained."""
    weights, distance = config.student.weights, config.feature_distance
    if isinstance(student.backbone, ReinBackbone):  # TrainConfig refuses feature distance
        return None
    if weights != "random" and is_of_segmenter(weights):
        what = f"train.student.weights: {weights} comes with a decode head, so it learned labels"
        if distance is not None:
            raise ConfigError(
                f"{what}, and train.feature_distance compares with ImageNet's features; start from "
                "ImageNet's weights, or set train.feature_distance to null"
            )
        log.warning(f"{what}, perhaps those of the target")
    if distance is None:
        return None
    if weights == "random":
        log.warning("feature distance is off: train.student.weights is random, not ImageNet's")
        return None
    names = manifest.classes.names
    if unknown := [name for name in distance.classes if name not in names]:
        raise ConfigError(
            f"train.feature_distance.classes: {', '.join(unknown)} is not a class of this data "
            f"set; its classes are {', '.join(names)}"
        )
    backbone = deepcopy(student.backbone).eval().requires_grad_(False)
    return ImageNetReference(backbone, [names.index(name) for name in distance.classes])


def _start_from(
    student: Student, folder: Path, config: StudentConfig, classes: Sequence[str]
) -> Mapping[str, Any]:
    """Copy the weights of an earlier student; return what its card tells."""
    with _naming("train.init"):
        start, meta = load_student(folder)
        require_classes(meta, classes, origin=str(folder))
        if student.frozen_sha256 != start.frozen_sha256:
            raise CheckpointError(
                f"{folder} has another frozen network than train.student.weights; make them equal"
            )
    own = {n: w for n, w in student.state_dict().items() if n.startswith(ADDED)}
    try:
        student.load_state_dict(own | start.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"train.init: {folder} is another architecture than train.student "
            f"({config.backbone}, {config.head}, {config.head_channels} channels, semask, hrda); "
            "make them equal"
        ) from error
    return meta


@contextmanager
def _naming(key: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from error


def teacher_of(spec: StoreSpec) -> Mapping[str, Any]:
    """Return what `stages.embed` recorded of the teacher."""
    teacher = spec.provenance["teacher"]
    assert isinstance(teacher, Mapping)
    return teacher
