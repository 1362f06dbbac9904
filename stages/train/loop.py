"""The training loop: nothing hides in a trainer class.

Steps of distillation come first, those of the task after them.

# B batch
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from stages.train.config import TrainConfig
from stages.train.crops import STEP_STREAM, Sample, batches
from stages.train.graphs import passes_for
from stages.train.monitor import COLUMNS, Curves, FiniteCheck, health_row
from stages.train.ranks import ALONE, Ranks
from stages.train.state import TrainingState, learning_rate, set_learning_rate
from stages.train.step import (
    FeatureMixer,
    draw_boxes,
    draw_distilled,
    draw_step,
    mix_stored,
    train_step,
)
from stages.train.validate import Validation
from stages.train.workspace import CHECKPOINT

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""(iterations done, iterations in all, what the losses are) -> None."""


def fit(
    config: TrainConfig,
    state: TrainingState,
    crops: Dataset[Sample],
    *,
    device: torch.device,
    folder: Path,
    fingerprint: str,
    progress: Progress,
    classes: Sequence[str],
    show_rows: Callable[[Curves], None] = lambda curves: None,
    keep_best: Callable[[int, float, Validation], None] = lambda iteration, miou, by: None,
    validation: Validation | None = None,
    mixer: FeatureMixer = mix_stored,
    ranks: Ranks = ALONE,
) -> int | None:
    """Train to `config.total_steps`, from the checkpoint in `folder` if there is one.

    `state` is on `device` and changes in place; `folder` receives `checkpoint.pt` and the files of
    the curves. The first rank writes: it calls `show_rows` when these files were written, and
    `keep_best` (iterations done, mean IoU in percent, validation) when the checkpoint has the best
    measurement so far, and again where a run resumes there: it may have been killed between the
    two. `validation` is measured every `train.validate_every` iterations and after the last.

    Returns:
        Iterations that an earlier process had done; None if there was none.

    Raises:
        CheckpointError: If the checkpoint is of another run, damaged, or cannot be read now.
        TrainingError: If a loss or gradient is not finite, at the next row or checkpoint; the
            weights are not updated with it nor after it. Or if ranks disagree or one is gone.
    """
    checkpoint = folder / CHECKPOINT
    ranks.require_equal(fingerprint, "parameters, data or code")  # and the first one is ready
    resumed_from = state.load(checkpoint, fingerprint=fingerprint, device=device)
    ranks.require_equal(resumed_from, f"the checkpoint in {folder}")
    models, optimizer, curves = state.models, state.optimizer, state.curves
    start, best = resumed_from or 0, curves.best
    if ranks.first and validation and best and best["iteration"] == resumed_from:
        keep_best(start, best["miou"], validation)
    loader = batches(crops, config, start=start, device=device, ranks=ranks)
    rows, check = ranks.rows(config.batch_size), FiniteCheck(device)
    passes = passes_for(config, device, ranks.count)
    before, total = config.distill_steps, config.total_steps
    weights = [each for group in optimizer.param_groups for each in group["params"]]

    for iteration in range(start, total):
        done, of_task = iteration + 1, iteration - before
        ends_row = done % config.log_every == 0 or done == total
        looks = ends_row and ranks.first
        nth, length = (iteration, before) if of_task < 0 else (of_task, config.iterations)
        lr = learning_rate(nth, config.optimizer, length)
        if of_task == 0:
            optimizer.state.clear()  # the task begins without moments of the distillation
        set_learning_rate(optimizer, lr)
        samples = next(loader)
        # drawn for the batch of all ranks, whose labels decide
        draws = draw_step(config, ranks.whole_batch(samples.source_label), of_task)
        distilled = draw_distilled(config, iteration)
        batch = samples.to(device)
        _seed_noise(config.seed, iteration, ranks)  # after the loader, which draws from it too
        result = train_step(
            models,
            batch,
            None if draws is None else draws.of(rows),
            config=config,
            iteration=of_task,
            mixer=mixer,
            boxes=draw_boxes(config, of_task),
            distilled={domain: draw[rows] for domain, draw in distilled.items()},
            observe=looks,
            passes=passes,
        )
        if config.distill is not None and 0 <= of_task < config.distill.freeze:
            for weight in models.student.backbone.parameters():  # batch norms go on to follow
                weight.grad = None
        values, shares = dict(result.losses), curves.shares
        if result.pseudo is not None:
            values["confidence"] = result.pseudo.confidence
            for lost in shares.add(result.pseudo.label, models.student.num_classes):
                log.warning(
                    f"step {done}: {classes[lost]} vanishes from the pseudo-labels, down to "
                    f"{shares.lost[lost]:.1%} of its best share, and seldom comes back: try "
                    "another seed, rare class sampling or a later self_training.start"
                )
        gradients = [each.grad for each in weights if each.grad is not None]
        ranks.average([*gradients, *values.values()])
        check.add(result.losses, iteration, gradients)  # means of all ranks: all notice alike
        curves.add(values)
        if looks:
            lost_shares = {f"lost_{train_id}": left for train_id, left in shares.lost.items()}
            row = {"iteration": done, **health_row(result.seen, models), **lost_shares}
            curves.health.append(row)
        optimizer.found_inf = check.failed  # type: ignore[attr-defined]  # skips the update
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        saves = done % config.checkpoint_every == 0 or done == total
        every = config.validate_every if validation is not None else 0
        validates = of_task >= 0 < every and ((of_task + 1) % every == 0 or done == total)
        if ends_row or saves or validates:  # nothing else in the loop waits for the device
            check.require_finite(checkpoint)
        if ends_row:
            curves.close_row(iteration=done, lr=lr)
        if ranks.first:
            is_best = False
            if validation is not None and validates:
                scores = validation.measure(models.student, models.regularizer)
                curves.validation.append({"iteration": done, **scores})
                is_best = curves.best is curves.validation[-1]
            if ends_row or validates:
                curves.write(folder)
                show_rows(curves)
            if saves or is_best:  # a killed run remembers the row of the student that it keeps
                state.save(checkpoint, iteration=done, fingerprint=fingerprint)
            if validation is not None and is_best:
                keep_best(done, curves.validation[-1]["miou"], validation)
        progress(done, total, _describe(curves, classes))

    if ranks.first:
        curves.write(folder)  # a finished run may have lost its files
        show_rows(curves)
    return resumed_from


def _seed_noise(seed: int, iteration: int, ranks: Ranks) -> None:
    """Let dropout and stochastic depth depend on the seed, the iteration and the rank alone."""
    sequence = np.random.SeedSequence(
        (seed, STEP_STREAM, iteration), spawn_key=() if ranks.first else (ranks.rank,)
    )
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def _describe(curves: Curves, classes: Sequence[str]) -> str:
    if not curves.rows:
        return ""
    last = {name: value for name, value in curves.rows[-1].items() if name not in COLUMNS[:2]}
    if curves.validation:
        last["mIoU"] = curves.validation[-1]["miou"]
    lost = [f"LOST {classes[train_id]}" for train_id in curves.shares.lost]
    return "  ".join([*lost, *(f"{name} {value:.3g}" for name, value in last.items())])
