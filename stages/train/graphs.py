"""The passes of a step as CUDA graphs: recorded once, launched as one.

A step of MiT-B5 launches some 20,000 kernels, and the host takes four times as long to launch them
as a GPU to run them. A graph is launched at once. It reads its inputs and leaves its results and
gradients at the places that it was recorded with.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor, nn

from stages.train.config import TrainConfig
from stages.train.step import Passes, Step, StepResult, run_passes
from store.errors import TrainingError

log = logging.getLogger(__name__)

WARM_UP: Final = 3
"""Steps of a kind that run without a graph first: libraries choose kernels and take memory."""

Launch = Callable[[], None]


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
    return RecordedPasses()


@dataclass(frozen=True)
class _Recorded:
    """One graph, and the tensors whose places it knows."""

    step: Step
    result: StepResult
    gradients: list[tuple[nn.Parameter, Tensor | None]]
    launch: Launch


class RecordedPasses:
    """Run the passes of steps as graphs, one for each kind of step: by its inputs' shapes.

    Numbers are those of `run_passes`, noise included: a graph draws from the seed that the
    generator has when it is launched.
    """

    def __init__(self) -> None:
        self._recorded: dict[object, _Recorded] = {}
        self._steps = Counter[object]()
        self._pool: Any = None  # graphs share it: no result is read after the next launch

    def __call__(self, step: Step) -> StepResult:
        """Add gradients as `run_passes` does, to parameters that have none yet.

        What is returned beside the losses holds until the next call.

        Raises:
            TrainingError: If a graph cannot be recorded, for want of memory too.
        """
        given = _inputs(step)
        inputs = (step.of_task, *((each.shape, each.dtype) for each in given))
        self._steps[inputs] += 1
        if self._steps[inputs] <= WARM_UP:
            return run_passes(step)
        kind = (inputs, step.observe)
        if kind not in self._recorded:
            names = ("batch", "things", "views", "distilled")
            held = replace(step, **{name: deepcopy(getattr(step, name)) for name in names})
            try:
                result, launch = self.record(held)
            except RuntimeError as error:  # after which the generator can draw no more
                reason = str(error).partition("\n")[0]
                raise TrainingError(
                    f"a step cannot be recorded as a CUDA graph ({reason}); set train.cuda_graphs "
                    "to off"
                ) from error
            models = step.models
            networks = (models.student, models.regularizer, models.distiller)
            weights = [w for each in networks if each is not None for w in each.parameters()]
            gradients = [(weight, weight.grad) for weight in weights]
            self._recorded[kind] = _Recorded(held, result, gradients, launch)
        recorded = self._recorded[kind]
        for place, tensor in zip(_inputs(recorded.step), given, strict=True):
            place.copy_(tensor, non_blocking=True)
        for weight, gradient in recorded.gradients:
            weight.grad = gradient
        recorded.launch()
        losses = recorded.result.losses
        copies = torch.stack([*losses.values()]).unbind()  # outlive the next launch
        return recorded.result._replace(losses=dict(zip(losses, copies, strict=True)))

    def record(self, step: Step) -> tuple[StepResult, Launch]:
        """Record what `run_passes` launches -> its results' places, and what launches it."""
        graph = torch.cuda.CUDAGraph()
        # Threads that pin the loader's batches go on meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = run_passes(step)
        self._pool = graph.pool()
        return result, graph.replay


def _inputs(step: Step) -> list[Tensor]:
    batch = (getattr(step.batch, part.name) for part in fields(step.batch))
    parts = (*batch, step.things, *(step.views or ()), step.distilled)
    each = (part.values() if isinstance(part, Mapping) else (part,) for part in parts)
    return [tensor for tensor in chain.from_iterable(each) if tensor is not None]
