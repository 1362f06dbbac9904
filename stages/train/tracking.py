"""What is seen of a run while it trains, as CSV for `dvc plots`: losses, health, validation."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from stages.train.health import HEALTH_COLUMNS
from stages.train.step import LOSSES
from store.atomic import write_bytes

COLUMNS = ("iteration", "lr", *LOSSES, "confidence")
VALIDATION_COLUMNS = ("iteration", "miou", "enhanced", "wrong_teacher")
"""Mean IoU in percent of the student, and of the branch with the image's own features and with
another image's: as much lower as it reads its teacher."""

Row = dict[str, float]


class Curves:
    """Rows of all three files; what a run does not compute stays empty.

    The state goes into the checkpoint, so that a resumed run writes the same files.

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


def _write(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write rows as CSV; an empty cell is a value that was not computed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row | {name: f"{row[name]:.6g}" for name in row if name != "iteration"})
    write_bytes(path, text.getvalue().encode())
