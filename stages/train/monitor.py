"""Losses, health of the regulariser and validations of a run while it trains.

Differs from SSR: the official code logs nothing of its branch. Losses do not show whether fusion
reads its teacher at all; the health of the regulariser does.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from stages.train.models import Models
from stages.train.regularizers.branch import Seen, norm
from stages.train.step import LOSSES
from store.atomic import write_bytes
from store.errors import ConfigError, TrainingError

COLUMNS = ("iteration", "lr", *LOSSES, "confidence")

STAGES = 4
MEASURES = ("residual", "entropy", "swap", "gradient")
HEALTH_COLUMNS = (
    "iteration",
    "gradient_student",
    *(f"{measure}_{stage}" for measure in MEASURES for stage in range(STAGES)),
)
"""By stage, from fine to coarse; a stage without teacher stays empty.

residual: norm of what fusion adds over the norm of the student's features; 0 is a dead branch,
much above 1 a dominating one.
entropy: of the attention over the teacher's tokens, over its maximum; 1 is uniform, it looks
nowhere. Empty for a branch without attention.
swap: change of the residual, relative to its norm, with the tokens of another image of the batch
in place of the image's own; 0 is a branch that ignores its teacher. Empty for a batch of one.
gradient: norm of the gradient of the stage's fusion; `gradient_student` that of the student.
More where a run has it: `gamma`, the weight of SeMask's attention in a stage; at 0 it is dead.
`rein_scale`, the weight of what refines the teacher's features; `rein_delta`, its norm over that of
the features, and `rein_dropped`, the attention that features pay to none of its tokens; likewise
`student_rein_*` of the tokens of `rein_vfm`.
`explained`, the share of the teacher's variance that a stage predicts in distillation: 0 is what
the mean of its tokens would, 1 is all.
`lost` of a class, by its train id: its share of the pseudo-labels over its best; see `ClassShares`.
"""

VALIDATION_COLUMNS = ("iteration", "miou", "enhanced", "wrong_teacher")
"""Mean IoU in percent of the student, and of the branch with the image's own features and with
another image's: as much lower as it reads its teacher."""

BLOCK: Final = 500
"""Iterations over which the share of a class is averaged before it is judged."""

LEAST_SHARE: Final = 0.001
"""A class with less than this of all pixels at its best is too rare to be judged."""

COLLAPSED: Final = 0.05
"""A class is lost below this times its best share."""

Row = dict[str, float]

_Values = list[tuple[str, float, int]]
"""(kind/name, value, iteration)."""


class ClassShares:
    """Alarm for classes that vanish from the pseudo-labels: self-training seldom gets one back."""

    def __init__(self) -> None:
        self.lost: dict[int, float] = {}  # train id -> share of the last block over the best one's
        self.best: list[float] = []
        self.iterations = 0
        self.counts = torch.zeros(0, dtype=torch.int64)  # of the unfinished block

    def add(self, label: Tensor, num_classes: int) -> list[int]:
        """Count pseudo-labels (B, H, W); return the classes that the block ending here has lost.

        Waits for the device where a block ends, and nowhere else.
        """
        counts = torch.zeros(num_classes, dtype=torch.int64, device=label.device)
        counts.scatter_add_(0, label.flatten(), torch.ones_like(label.flatten()))
        if self.iterations:
            counts += self.counts.to(label.device)
        self.counts, self.iterations = counts, self.iterations + 1
        if self.iterations < BLOCK:
            return []
        shares = (counts / counts.sum()).tolist()
        self.best = self.best or shares
        before, self.lost = self.lost, {}
        for train_id, (share, best) in enumerate(zip(shares, self.best, strict=True)):
            if best >= LEAST_SHARE and share < COLLAPSED * best:
                self.lost[train_id] = share / best
        self.best = [max(pair) for pair in zip(shares, self.best, strict=True)]
        self.counts, self.iterations = counts[:0], 0
        return [train_id for train_id in self.lost if train_id not in before]

    def state_dict(self) -> dict[str, Any]:
        """Return all of it, as lists."""
        return {**vars(self), "counts": self.counts.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        counts = torch.tensor(state["counts"], dtype=torch.int64)
        vars(self).update({name: state[name] for name in vars(self)}, counts=counts)


class Curves:
    """Rows of all three files; as part of the checkpoint, a resumed run writes the same."""

    def __init__(self) -> None:
        self.rows: list[Row] = []  # averages since the row before, `COLUMNS`
        self.health: list[Row] = []  # at the iterations of `rows`, `HEALTH_COLUMNS`
        self.validation: list[Row] = []  # `VALIDATION_COLUMNS`
        self.shares = ClassShares()
        self.sums: dict[str, float | Tensor] = {}  # tensors stay on their device until read
        self.counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add the values of one iteration, 0-d tensors, without waiting for their device."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.double()
            self.counts[name] = self.counts.get(name, 0) + 1

    def close_row(self, *, iteration: int, lr: float) -> Row:
        """Average what was added since the last row and append it as the row of `iteration`."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.rows.append({"iteration": iteration, "lr": lr, **means})
        self.sums, self.counts = {}, {}
        return self.rows[-1]

    @property
    def best(self) -> Row | None:
        """Row of the best validation, the first of equals."""
        return max(self.validation, key=lambda row: row["miou"], default=None)

    def write(self, folder: Path) -> None:
        """Write `curves.csv`, `health.csv` and `validation.csv`, each atomically."""
        _write(folder / "curves.csv", COLUMNS, self.rows)
        _write(folder / "health.csv", HEALTH_COLUMNS, self.health)
        _write(folder / "validation.csv", VALIDATION_COLUMNS, self.validation)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the sums of the unfinished one."""
        sums = {name: float(total) for name, total in self.sums.items()}
        return {**vars(self), "sums": sums, "shares": self.shares.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.shares.load_state_dict(state["shares"])
        vars(self).update({name: state[name] for name in vars(self)}, shares=self.shares)


def rows_for(names: Iterable[str], folder: Path) -> Callable[[Curves], None]:
    """Return what passes new rows on to the tools of `train.log_to`.

    Their files, in the folders `live` and `tensorboard` of the run, are written anew from the first
    row on, also by a resumed run: both tools only append, and a killed run may have appended rows
    that its checkpoint does not know. Nothing is written before the first call.

    Raises:
        ConfigError: If a tool is not installed.
    """
    tools = {name: _tool(name, folder) for name in names}
    passed = {"train": 0, "health": 0, "validation": 0}

    def pass_on(curves: Curves) -> None:
        kinds = {"train": curves.rows, "health": curves.health, "validation": curves.validation}
        values = [
            (f"{kind}/{name}", value, int(row["iteration"]))
            for kind, rows in kinds.items()
            for row in rows[passed[kind] :]
            for name, value in row.items()
            if name != "iteration"
        ]
        passed.update({kind: len(rows) for kind, rows in kinds.items()})
        for show in tools.values():
            show(values)

    return pass_on


def health_row(seen: Seen, models: Models) -> dict[str, float]:
    """Average what was seen, and add the norms of the gradients; this waits for the device."""
    row = {"gradient_student": _gradient_norm(models.student.parameters())}
    row |= {name: float(torch.stack(values).mean()) for name, values in seen.items()}
    for name, weight in models.student.named_parameters():
        if found := re.fullmatch(r"semantic\.(\d)\..*\.gamma", name):
            row[f"gamma_{found[1]}"] = weight.item()
    if models.regularizer is not None:
        named = list(models.regularizer.named_parameters())
        for stage in models.regularizer.fusion:
            parts = (f"embed.{stage}.", f"fusion.{stage}.")
            learned = [weight for name, weight in named if name.startswith(parts)]
            if any(weight.grad is not None for weight in learned):  # it rests in distillation
                row[f"gradient_{stage}"] = _gradient_norm(learned)
    return row


class FiniteCheck:
    """The first iteration with a loss or a gradient that is not finite.

    Reading a value makes the host wait until the device has caught up; so nothing is read until
    `require_finite`, and `failed` keeps the weights as they were in the meantime.
    """

    def __init__(self, device: torch.device) -> None:
        self.failed = torch.zeros((), device=device)
        """0-d float32, 1 from the first such iteration on: AdamW's `found_inf`."""
        self._noted: list[tuple[int, Mapping[str, Tensor], Tensor]] = []

    def add(
        self, losses: Mapping[str, Tensor], iteration: int, gradients: Sequence[Tensor] = ()
    ) -> None:
        """Note the losses of an iteration, 0-d float32 each, and its gradients.

        Finite losses can have gradients that are not: a division, a root, an overflow on the way.
        """
        norms = torch._foreach_norm(list(gradients)) if gradients else ()
        finite = torch.stack([*losses.values(), *norms]).isfinite().all()
        self._noted.append((iteration, losses, finite))
        self.failed = torch.maximum(self.failed, (~finite).float())

    def require_finite(self, checkpoint: Path) -> None:
        """Wait for the device, and stop if a loss or a gradient was not finite.

        Raises:
            TrainingError: Since then no weights were updated; `checkpoint` is as it was.
        """
        noted, self._noted = self._noted, []
        if not self.failed.item():
            return
        iteration, losses, _ = next(each for each in noted if not each[2])
        found = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
        what = "a gradient" if all(value.isfinite() for value in losses.values()) else "a loss"
        raise TrainingError(
            f"iteration {iteration}: {what} is not finite ({found}); the weights were not updated. "
            f"Lower train.optimizer.lr, or look at the images and labels; {checkpoint} is as it was"
        )


def _write(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write rows as CSV; an empty cell is a value that was not computed.

    Columns of what a run has and others have not, as SeMask's losses, come last.
    """
    text = io.StringIO()
    more = dict.fromkeys(name for row in rows for name in row if name not in columns)
    writer = csv.DictWriter(text, [*columns, *more], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row | {name: f"{row[name]:.6g}" for name in row if name != "iteration"})
    write_bytes(path, text.getvalue().encode())


def _gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    norms = [norm(parameter.grad) for parameter in parameters if parameter.grad is not None]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0


def _tool(name: str, folder: Path) -> Callable[[_Values], None]:
    """Return what shows values, and opens the tool when it is called first."""
    try:
        return _dvclive(folder) if name == "dvclive" else _tensorboard(folder)
    except ImportError as error:
        raise ConfigError(
            f"train.log_to: {name} is not installed: `pip install -e '.[{name}]'`, or set it to [];"
            " curves.csv, health.csv and validation.csv hold the same numbers"
        ) from error


def _dvclive(folder: Path) -> Callable[[_Values], None]:
    from dvclive import Live

    # dvc.yaml is ours
    opened = cache(lambda: Live(str(folder / "live"), dvcyaml=None, save_dvc_exp=False))

    def show(values: _Values) -> None:
        for name, value, iteration in values:
            opened().step = iteration
            opened().log_metric(name, value)
        opened().make_summary()

    return show


def _tensorboard(folder: Path) -> Callable[[_Values], None]:
    from torch.utils.tensorboard import SummaryWriter

    # `purge_step` hides what is there of another attempt.
    opened = cache(lambda: SummaryWriter(str(folder / "tensorboard"), purge_step=0))

    def show(values: _Values) -> None:
        for name, value, iteration in values:
            opened().add_scalar(name, value, iteration)
        opened().flush()

    return show
