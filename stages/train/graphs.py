"""The passes of a step as CUDA graphs: recorded once, launched as one.

A step of MiT-B5 launches some 20,000 kernels, and the host takes four times as long to launch them
as a GPU to run them. A graph is launched at once. It reads its inputs and leaves its results and
gradients at the places that it was recorded with.

# B batch, H W pixels
"""

import logging
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from stages.train.config import TrainConfig
from stages.train.crops import Batch
from stages.train.models import Models
from stages.train.step import (
    Boxes,
    FeatureMixer,
    Passes,
    StepResult,
    Views,
    run_passes,
)
from store.errors import TrainingError

log = logging.getLogger(__name__)

WARM_UP: Final = 3
"""Steps of a kind that run without a graph first: libraries choose kernels and take memory."""

Launch = Callable[[], None]
Record = Callable[[Callable[[], StepResult]], tuple[StepResult, Launch]]
"""Record what a function launches, without running it -> its results' places, and what runs it."""


def passes_for(config: TrainConfig, device: torch.device, ranks: int) -> Passes:
    """Return what runs the passes of a run: graphs on a GPU where they can, else `run_passes`."""
    if device.type != "cuda" or config.cuda_graphs == "off":
        return run_passes
    hindrances = {
        "train.compile is on": config.compile,
        "train.activation_checkpointing is on": config.activation_checkpointing,
        "train.student.hrda draws other windows in each": config.student.hrda is not None,
        "train.student.head mask2former matches on the CPU": config.student.head == "mask2former",
        "train.sync_batch_norm waits for other GPUs": config.sync_batch_norm and ranks > 1,
    }
    for hindrance in [text for text, hinders in hindrances.items() if hinders]:
        log.warning(f"train.cuda_graphs: steps are launched kernel by kernel, as {hindrance}")
        return run_passes
    if config.distill is not None:
        log.warning("train.cuda_graphs: steps of train.distill are launched kernel by kernel")
    return RecordedPasses()


class CudaRecorder:
    """Record CUDA graphs on the current device, all in one pool of memory.

    They may share it, as nobody reads the results of one after another was launched.
    """

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Callable[[], StepResult]) -> tuple[StepResult, Launch]:
        """Record all that a function launches."""
        graph = torch.cuda.CUDAGraph()
        # Threads that pin the loader's batches go on meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = run()
        self._pool = graph.pool()
        return result, graph.replay


@dataclass(frozen=True)
class _Recorded:
    """One graph, and the tensors whose places it knows."""

    batch: Batch
    views: Views
    result: StepResult
    gradients: list[tuple[nn.Parameter, Tensor | None]]
    launch: Launch


class RecordedPasses:
    """Run the passes of steps as graphs, one for each kind of step: by the shapes of its inputs.

    Numbers are those of `run_passes`, noise included: a graph draws from the seed that the
    generator has when it is launched.

    Args:
        record: Records a graph; tests give a stand-in.
    """

    def __init__(self, record: Record | None = None) -> None:
        self._record = record or CudaRecorder()
        self._recorded: dict[object, _Recorded] = {}
        self._steps = Counter[object]()

    def __call__(
        self,
        models: Models,
        batch: Batch,
        views: Views,
        *,
        config: TrainConfig,
        mixer: FeatureMixer,
        boxes: Boxes,
        observe: bool,
    ) -> StepResult:
        """Add gradients as `run_passes` does, to parameters that have none yet.

        What is returned beside the losses holds until the next call.

        Raises:
            TrainingError: If a graph cannot be recorded, for want of memory too.
        """

        def run(batch: Batch, views: Views) -> StepResult:
            return run_passes(
                models, batch, views, config=config, mixer=mixer, boxes=boxes, observe=observe
            )

        shapes = tuple((each.shape, each.dtype) for each in _tensors(batch, views))
        self._steps[shapes] += 1
        if self._steps[shapes] <= WARM_UP:
            return run(batch, views)
        kind = (shapes, observe)
        if kind not in self._recorded:
            networks = (models.student, models.regularizer)
            weights = [w for each in networks if each is not None for w in each.parameters()]
            try:
                self._recorded[kind] = self._recording(run, weights, batch, views)
            except RuntimeError as error:  # after which the generator can draw no more
                reason = str(error).partition("\n")[0]
                raise TrainingError(
                    f"a step cannot be recorded as a CUDA graph ({reason}); set train.cuda_graphs "
                    "to off"
                ) from error
        recorded = self._recorded[kind]
        given = _tensors(batch, views)
        for place, tensor in zip(_tensors(recorded.batch, recorded.views), given, strict=True):
            place.copy_(tensor, non_blocking=True)
        for weight, gradient in recorded.gradients:
            weight.grad = gradient
        recorded.launch()
        losses = recorded.result.losses
        copies = torch.stack([*losses.values()]).unbind()  # outlive the next launch
        return recorded.result._replace(losses=dict(zip(losses, copies, strict=True)))

    def _recording(
        self,
        run: Callable[[Batch, Views], StepResult],
        weights: list[nn.Parameter],
        batch: Batch,
        views: Views,
    ) -> _Recorded:
        batch, views = deepcopy(batch), deepcopy(views)
        result, launch = self._record(lambda: run(batch, views))
        gradients = [(weight, weight.grad) for weight in weights]
        return _Recorded(batch, views, result, gradients, launch)


def _tensors(batch: Batch, views: Views) -> list[Tensor]:
    return [
        *(batch.source_image, batch.source_label, *batch.source_features.values()),
        *(batch.target_image, batch.target_valid, *batch.target_features.values()),
        *(t for t in (batch.target_probabilities, batch.source_begun) if t is not None),
        *(view for view in views if view is not None),
    ]
