"""The training loop: nothing hides in a trainer class.

Steps of distillation come first, those of the task after them.

# B batch
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stages.train.adaptation.augment import StrongDraw, augment, draw_strong
from stages.train.config import TrainConfig
from stages.train.crops import DISTILL_STREAM, STEP_STREAM, Batch, Sample, batches
from stages.train.graphs import passes_for
from stages.train.models import Models
from stages.train.monitor import COLUMNS, Curves, FiniteCheck, health_row
from stages.train.ranks import ALONE, Ranks
from stages.train.regularizers.branch import Seen
from stages.train.state import TrainingState, learning_rate, set_learning_rate
from stages.train.step import (
    FeatureMixer,
    StepResult,
    accumulate,
    draw_boxes,
    draw_step,
    mix_stored,
    part_of,
    train_step,
)
from stages.train.validate import Validation
from stages.train.workspace import CHECKPOINT

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""(iterations done, iterations in all, what the losses are) -> None."""

DistillDraws = dict[str, list[StrongDraw]]
"""Domain -> augmentation of each of its images; no domain where nothing is drawn."""


def fit(
    config: TrainConfig,
    state: TrainingState,
    crops: Dataset[Sample],
    *,
    device: torch.device,
    folder: Path,
    fingerprint: str,
    progress: Progress,
    show_rows: Callable[[Curves], None] = lambda curves: None,
    keep_best: Callable[[int, float], None] = lambda iteration, miou: None,
    validation: Validation | None = None,
    mixer: FeatureMixer = mix_stored,
    ranks: Ranks = ALONE,
    classes: Sequence[str] = (),
) -> int | None:
    """Train to `config.total_steps`, from the checkpoint in `folder` if there is one.

    Args:
        config: Section `train`.
        state: Networks on `device`, optimiser and curves; changed in place.
        crops: The training samples.
        device: Where to compute.
        folder: Receives `checkpoint.pt`, `curves.csv`, `health.csv` and `validation.csv`.
        fingerprint: Hash of all that determines the run.
        progress: Called after every iteration.
        show_rows: Called by the first rank when the files of the curves were written.
        keep_best: (iterations done, mean IoU in percent); called by the first rank when the
            checkpoint has a measurement that is the best so far, and again where a run resumes
            there: it may have been killed between the two.
        validation: Measured every `train.validate_every` iterations and after the last.
        mixer: Makes the teacher features of the mixed images.
        ranks: Ranks that share the run; the first one writes.
        classes: Names by train id, for messages; numbers where there are none.

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
    start = resumed_from or 0
    best = state.curves.best
    if ranks.first and best is not None and best["iteration"] == resumed_from:
        keep_best(start, best["miou"])
    loader = batches(crops, config, start=start, device=device, ranks=ranks)
    check, shares = FiniteCheck(device), state.curves.shares
    passes = passes_for(config, device, ranks.count)
    before, total = config.distill_steps, config.total_steps

    def name_of(train_id: int) -> str:
        return classes[train_id] if classes else f"class {train_id}"

    shown = _describe(state.curves, name_of)

    for iteration in range(start, total):
        done, of_task = iteration + 1, iteration - before
        ends_row = done % config.log_every == 0 or done == total
        if of_task < 0:
            lr = learning_rate(iteration, config.optimizer, before)
        else:
            lr = learning_rate(of_task, config.optimizer, config.iterations)
        if of_task == 0:
            state.optimizer.state.clear()  # the task begins without moments of the distillation
        set_learning_rate(state.optimizer, lr)
        samples = next(loader)
        rows = ranks.rows(config.batch_size)
        draws = None
        if of_task >= 0:  # drawn for the batch of all ranks, whose labels decide
            draws = draw_step(config, ranks.whole_batch(samples.source_label), of_task)
        batch, distill_draws = samples.to(device), draw_distilled(config, iteration, rows)
        _seed_noise(config.seed, iteration, ranks)  # after the loader, which draws from it too
        looks = ends_row and ranks.first
        if of_task < 0:
            result = distill_step(state.models, batch, distill_draws, config)
        else:
            result = train_step(
                state.models,
                batch,
                None if draws is None else draws.of(rows),
                config=config,
                iteration=of_task,
                mixer=mixer,
                boxes=draw_boxes(config, of_task),
                observe=looks,
                passes=passes,
            )
            result = keep_distilling(result, state.models, batch, distill_draws, config)
            freeze_backbone(state.models, config, of_task)
        values = dict(result.losses)
        if result.pseudo is not None:
            values["confidence"] = result.pseudo.confidence
            lost_now = shares.add(result.pseudo.label, state.models.student.num_classes)
            for lost in lost_now if ranks.first else ():
                log.warning(
                    f"step {done}: {name_of(lost)} vanishes from the pseudo-labels, down to "
                    f"{shares.lost[lost]:.1%} of its best share, and seldom comes back: try "
                    "another seed, rare class sampling or a later self_training.start"
                )
        weights = (each for group in state.optimizer.param_groups for each in group["params"])
        gradients = [each.grad for each in weights if each.grad is not None]
        ranks.average([*gradients, *values.values()])
        check.add(result.losses, iteration, gradients)  # means of all ranks: all notice alike
        state.curves.add(values)
        if looks:
            lost_columns = {f"lost_{train_id}": left for train_id, left in shares.lost.items()}
            row = health_row(result.seen, state.models)
            state.curves.health.append({"iteration": done, **row, **lost_columns})
        state.optimizer.found_inf = check.failed  # type: ignore[attr-defined]  # skips the update
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)

        saves = done % config.checkpoint_every == 0 or done == total
        every = config.validate_every if validation is not None else 0
        ends_interval = every > 0 and ((of_task + 1) % every == 0 or done == total)
        validates = of_task >= 0 and ends_interval
        if ends_row or saves or validates:  # nothing else in the loop waits for the device
            check.require_finite(checkpoint)
        if ends_row:
            state.curves.close_row(iteration=done, lr=lr)
        if ranks.first:
            is_best = False
            if validation is not None and validates:
                row = validation.measure(state.models.student, state.models.regularizer)
                is_best = state.curves.add_validation({"iteration": done, **row})
            if ends_row or validates:
                state.curves.write(folder)
                show_rows(state.curves)
            if saves or is_best:  # a killed run remembers the row of the student that it keeps
                state.save(checkpoint, iteration=done, fingerprint=fingerprint)
            if is_best:
                keep_best(done, state.curves.validation[-1]["miou"])
        if ends_row:
            shown = _describe(state.curves, name_of)
        progress(done, total, shown)

    if ranks.first:
        state.curves.write(folder)  # a finished run may have lost its files
        show_rows(state.curves)
    return resumed_from


def _seed_noise(seed: int, iteration: int, ranks: Ranks) -> None:
    """Let dropout and stochastic depth depend on the seed, the iteration and the rank alone."""
    sequence = np.random.SeedSequence(
        (seed, STEP_STREAM, iteration), spawn_key=() if ranks.first else (ranks.rank,)
    )
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def _describe(curves: Curves, name_of: Callable[[int], str]) -> str:
    if not curves.rows:
        return ""
    last = {name: value for name, value in curves.rows[-1].items() if name not in COLUMNS[:2]}
    if curves.validation:
        last["mIoU"] = curves.validation[-1]["miou"]
    lost = [f"LOST {name_of(train_id)}" for train_id in curves.shares.lost]
    return "  ".join([*lost, *(f"{name} {value:.3g}" for name, value in last.items())])


def draw_distilled(config: TrainConfig, iteration: int, rows: slice) -> DistillDraws:
    """Draw the augmentation of a step, counted from the first of all, for some of its images.

    It is that of `self_training`; without it images are not augmented.
    """
    if config.distill is None or config.self_training is None:
        return {}
    rng = np.random.default_rng((config.seed, DISTILL_STREAM, iteration))
    return {
        domain: draw_strong(rng, config.batch_size, config.self_training, per_image=True)[rows]
        for domain in ("source", "target")
    }


def distill_step(
    models: Models, batch: Batch, draws: DistillDraws, config: TrainConfig
) -> StepResult:
    """Add the gradients of a step of distillation to the student's backbone and the distiller.

    Batch norms and noise are as in training; domains are seen one after the other, as there.

    Returns:
        Losses `distill_source` and `distill_target`, and the shares of variance explained.
    """
    models.half.refresh()
    seen: Seen = {}
    losses = _learn("source", 1.0, models, batch, draws, config, seen)
    losses |= _learn("target", 1.0, models, batch, draws, config, seen)
    return StepResult(losses, None, None, seen)


def keep_distilling(
    result: StepResult, models: Models, batch: Batch, draws: DistillDraws, config: TrainConfig
) -> StepResult:
    """Add to a step of the task what `distill.keep` asks for, on its target images alone."""
    if config.distill is None or not config.distill.keep:
        return result
    seen: Seen = {}
    losses = _learn("target", config.distill.keep, models, batch, draws, config, seen)
    return result._replace(losses=result.losses | losses, seen=result.seen | seen)


def freeze_backbone(models: Models, config: TrainConfig, iteration: int) -> None:
    """Drop the backbone's gradients in the first `distill.freeze` iterations of the task.

    Averages of batch norms, which are no weights, go on to follow the images.
    """
    if config.distill is not None and iteration < config.distill.freeze:
        for weight in models.student.backbone.parameters():
            weight.grad = None


def _learn(
    domain: str,
    factor: float,
    models: Models,
    batch: Batch,
    draws: DistillDraws,
    config: TrainConfig,
    seen: Seen,
) -> dict[str, Tensor]:
    """Go forward and back on the images of a domain; note the explained shares in `seen`."""
    student, distiller = models.student, models.distiller
    assert distiller is not None
    images, teacher = batch.source_image, batch.source_features
    if domain == "target":
        images, teacher = batch.target_image, batch.target_features
    if domain in draws:
        images = augment(images, draws[domain])

    def losses_of(part: slice) -> dict[str, Tensor]:
        image = images[part]
        loss, explained = distiller(student.features(image), part_of(teacher, part))
        for name, value in explained.items():
            seen.setdefault(name, []).append(value)
        return {f"distill_{domain}": factor * len(image) / len(batch) * loss}

    return accumulate(losses_of, models, batch, config)
