"""The training loop: nothing hides in a trainer class."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stages.train.checkpoint import TrainingState
from stages.train.config import TrainConfig
from stages.train.dataset import STEP_STREAM, TrainingCrops, batches
from stages.train.optimizer import learning_rate, set_learning_rate
from stages.train.step import StepResult, draw_step, train_step
from store.errors import TrainingError

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""(iterations done, iterations in all, what the losses are) -> None."""


@dataclass(frozen=True)
class FitResult:
    """How a run went; seconds are of this process, the losses of the last row of the curves."""

    resumed_from: int | None
    seconds: float
    last_row: dict[str, float]


def fit(
    config: TrainConfig,
    state: TrainingState,
    crops: TrainingCrops,
    *,
    device: torch.device,
    folder: Path,
    fingerprint: str,
    progress: Progress,
) -> FitResult:
    """Train to `config.iterations`, from the checkpoint in `folder` if it is of this run.

    Args:
        config: Section `train`.
        state: Networks on `device`, optimiser and curves; changed in place.
        crops: The training samples.
        device: Where to compute.
        folder: Receives `checkpoint.pt` and `curves.csv`.
        fingerprint: Hash of all that determines the run.
        progress: Called after every iteration.

    Raises:
        TrainingError: If a loss is not finite; the weights are not updated with it.
    """
    checkpoint, started = folder / "checkpoint.pt", time.perf_counter()
    resumed_from = state.load(checkpoint, fingerprint=fingerprint, device=device)
    start = resumed_from or 0
    if resumed_from is None and checkpoint.is_file():
        log.warning("%s is of another run (other parameters or data): training anew", checkpoint)
    loader = batches(crops, config, start=start, device=device)

    for iteration in range(start, config.iterations):
        lr = learning_rate(iteration, config.optimizer, config.iterations)
        set_learning_rate(state.optimizer, lr)
        samples = next(loader)
        draws = draw_step(config, samples.source_label, iteration)
        _seed_noise(config.seed, iteration)  # after the loader, which draws from the same generator
        result = train_step(
            state.models, samples.to(device), draws, config=config, iteration=iteration
        )
        _refuse_nonfinite(result, iteration, checkpoint)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)

        done = iteration + 1
        state.curves.add(_values(result))
        if done % config.log_every == 0 or done == config.iterations:
            state.curves.close_row(iteration=done, lr=lr)
            state.curves.write(folder / "curves.csv")
        if done % config.checkpoint_every == 0 or done == config.iterations:
            state.save(checkpoint, iteration=done, fingerprint=fingerprint)
        progress(done, config.iterations, _describe(state.curves.rows))

    state.curves.write(folder / "curves.csv")  # a finished run may have lost its file
    last_row = state.curves.rows[-1] if state.curves.rows else {}
    return FitResult(resumed_from, time.perf_counter() - started, last_row)


def _seed_noise(seed: int, iteration: int) -> None:
    """Let dropout and stochastic depth depend on the seed and the iteration alone."""
    words = np.random.SeedSequence((seed, STEP_STREAM, iteration)).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0]))


def _refuse_nonfinite(result: StepResult, iteration: int, checkpoint: Path) -> None:
    if bool(torch.isfinite(torch.stack(list(result.losses.values()))).all()):
        return
    values = ", ".join(f"{name} {float(loss):g}" for name, loss in result.losses.items())
    raise TrainingError(
        f"iteration {iteration}: a loss is not finite ({values}); the weights were not updated. "
        f"Lower train.optimizer.lr, or look at the images and labels; {checkpoint} is as it was"
    )


def _values(result: StepResult) -> dict[str, torch.Tensor]:
    if result.pseudo is None:
        return result.losses
    return {**result.losses, "confidence": result.pseudo.confidence}


def _describe(rows: list[dict[str, float]]) -> str:
    if not rows:
        return ""
    return "  ".join(
        f"{name} {value:.3g}" for name, value in rows[-1].items() if name not in ("iteration", "lr")
    )
