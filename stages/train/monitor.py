"""Losses, health of the regulariser and validations of a run while it trains.

Differs from SSR: the official code logs nothing of its branch. Losses do not show whether fusion
reads its teacher at all; the health of the regulariser does.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.train.models import Models
from stages.train.regularizers.branch import Branch, Seen, norm
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
"""

VALIDATION_COLUMNS = ("iteration", "miou", "enhanced", "wrong_teacher")
"""Mean IoU in percent of the student, and of the branch with the image's own features and with
another image's: as much lower as it reads its teacher."""

Row = dict[str, float]

_Tool = tuple[Callable[[str, float, int], object], Callable[[], object]]
"""(kind/name, value, iteration) -> None, and what writes its files."""


class Curves:
    """Rows of all three files; they go into the checkpoint, so that a resumed run writes the same.

    Attributes:
        rows: Averages since the row before, `COLUMNS`.
        health: The regulariser at the iterations of `rows`, `HEALTH_COLUMNS`.
        validation: Mean IoU in percent, `VALIDATION_COLUMNS`.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.health: list[Row] = []
        self.validation: list[Row] = []
        self._sums: dict[str, float | Tensor] = {}  # tensors stay on their device until read
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add the values of one iteration, 0-d tensors, without waiting for their device."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.double()
            self._counts[name] = self._counts.get(name, 0) + 1

    def close_row(self, *, iteration: int, lr: float) -> Row:
        """Average what was added since the last row and append it as the row of `iteration`."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self.rows.append({"iteration": iteration, "lr": lr, **means})
        self._sums, self._counts = {}, {}
        return self.rows[-1]

    @property
    def best(self) -> Row | None:
        """Row of the best validation, the first of equals."""
        return max(self.validation, key=lambda row: row["miou"], default=None)

    def add_validation(self, measured: Row) -> bool:
        """Append a row; tell whether its student is the best so far, the first of equals."""
        best = all(measured["miou"] > row["miou"] for row in self.validation)
        self.validation.append(measured)
        return best

    def write(self, folder: Path) -> None:
        """Write `curves.csv`, `health.csv` and `validation.csv`, each atomically."""
        _write(folder / "curves.csv", COLUMNS, self.rows)
        _write(folder / "health.csv", HEALTH_COLUMNS, self.health)
        _write(folder / "validation.csv", VALIDATION_COLUMNS, self.validation)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the sums of the unfinished one."""
        return {
            "rows": self.rows,
            "health": self.health,
            "validation": self.validation,
            "sums": {name: float(total) for name, total in self._sums.items()},
            "counts": self._counts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.rows, self.health = list(state["rows"]), list(state["health"])
        self.validation = list(state["validation"])
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])


def rows_for(names: Iterable[str], folder: Path) -> Callable[[Curves], None]:
    """Return what passes new rows on to the tools of `train.log_to`.

    Their files, in the folders `live` and `tensorboard` of the run, are written anew from the first
    row on, also by a resumed run: both tools only append, and a killed run may have appended rows
    that its checkpoint does not know. Nothing is written before the first call.

    Raises:
        ConfigError: If a tool is not installed.
    """
    opening = [_tool(name, folder) for name in dict.fromkeys(names)]
    tools: list[_Tool] = []
    passed = {"train": 0, "health": 0, "validation": 0}

    def pass_on(curves: Curves) -> None:
        if not tools:
            tools.extend(open_tool() for open_tool in opening)
        kinds = {"train": curves.rows, "health": curves.health, "validation": curves.validation}
        for kind, rows in kinds.items():
            for row in rows[passed[kind] :]:
                for name in [name for name in row if name != "iteration"]:
                    for show, _ in tools:
                        show(f"{kind}/{name}", row[name], int(row["iteration"]))
            passed[kind] = len(rows)
        for _, flush in tools:
            flush()

    return pass_on


@contextmanager
def observed(regularizer: Branch | None) -> Iterator[Seen]:
    """Collect what fusion does in the block; forward passes outside of it cost nothing."""
    seen: Seen = {}
    with ExitStack() as stack:
        for hook in regularizer.observe(seen) if regularizer is not None else ():
            stack.enter_context(hook)
        yield seen


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
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def _tool(name: str, folder: Path) -> Callable[[], _Tool]:
    """Return what opens a tool, which must be installed."""
    try:
        if name == "dvclive":
            from dvclive import Live
        else:
            from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            f"train.log_to: {name} is not installed: `pip install -e '.[{name}]'`, or set it to [];"
            " curves.csv, health.csv and validation.csv hold the same numbers"
        ) from error

    def dvclive() -> _Tool:
        live = Live(str(folder / "live"), dvcyaml=None, save_dvc_exp=False)  # dvc.yaml is ours

        def show(name: str, value: float, iteration: int) -> None:
            live.step = iteration
            live.log_metric(name, value)

        return show, live.make_summary

    def tensorboard() -> _Tool:
        # `purge_step` hides what is there of another attempt.
        writer = SummaryWriter(str(folder / "tensorboard"), purge_step=0)
        return writer.add_scalar, writer.flush

    return dvclive if name == "dvclive" else tensorboard
