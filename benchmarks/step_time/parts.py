"""Time of each part of a step: its functions are replaced by clocked ones for some rounds."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Final
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.step_time import ported_step
from benchmarks.step_time.arms import Arm
from benchmarks.step_time.clock import Clock, wait
from stages.train import step

FUNCTIONS: Final = {
    "update_ema": "EMA update",
    "most_probable": "pseudo-labels",
    "weighted": "pseudo-labels",
    "pseudo_labels": "pseudo-labels",
    "class_mask": "mixing",
    "mix": "mixing",
    "mix_features": "mixing",
    "mask_images": "mixing",
    "augment": "augmentation",
    "stage_features": "ImageNet forward",
    "segmentation_loss": "losses",
    "feature_distance": "losses",
    "cells_of": "losses",
}
"""Functions that `stages.train.step` or the ported step calls -> part of the step."""

PARTS: Final = (
    "data",
    "SAM",
    "EMA update",
    "EMA forward",
    "pseudo-labels",
    "student backbone",
    "student head",
    "regulariser",
    "ImageNet forward",
    "mixing",
    "augmentation",
    "losses",
    "backward",
    "optimiser",
    "rest",
)
"""In the order of the table; no part is inside another, so that they add up to the step."""


def measure_parts(arm: Arm, device: torch.device, iterations: range) -> dict[str, float]:
    """Run iterations; return mean seconds of each part, and of the `step` that they add up to."""
    clock = Clock(device)
    with _clocked(arm, clock):
        wait(device)
        started = perf_counter()
        for iteration in iterations:
            arm.step(iteration)
        wait(device)
        step_seconds = perf_counter() - started
    clock.seconds["rest"] = step_seconds - sum(clock.seconds.values())
    clock.seconds["step"] = step_seconds
    return {part: seconds / len(iterations) for part, seconds in clock.seconds.items()}


@contextmanager
def _clocked(arm: Arm, clock: Clock) -> Iterator[None]:
    """Have the functions of an arm's step tell the clock.

    Raises:
        RuntimeError: At the end, if one was never called: its time would be missed in silence.
    """
    models = arm.models
    calls: list[tuple[object, str, str]] = [
        (arm, "load", "data"),
        (arm, "update", "optimiser"),
        (models.ema, "forward", "EMA forward"),
        (models.student, "features" if arm.ported else "see", "student backbone"),
        (models.student, "classify", "student head"),
        (Tensor, "backward", "backward"),
    ]
    if arm.encode is not None:
        calls.append((arm, "encode", "SAM"))
    if models.regularizer is not None:
        calls.append((models.regularizer, "forward", "regulariser"))
    ours = {"class_mask", "most_probable", "weighted"}
    unused = ours if arm.ported else {"pseudo_labels"}
    if models.regularizer is None or arm.encode is not None:
        unused.add("mix_features")
    if arm.config.masking is None:
        unused.add("mask_images")
    module = ported_step if arm.ported else step
    calls += [(module, name, part) for name, part in FUNCTIONS.items() if name not in unused]
    with ExitStack() as stack:
        for owner, name, part in calls:
            timed = clock.timed(part, getattr(owner, name), name)
            stack.enter_context(patch.object(owner, name, timed))
        yield
    if missed := {name for _, name, _ in calls} - clock.called:
        raise RuntimeError(f"a step did not call {', '.join(sorted(missed))}: clock what it calls")
