"""Training curves: averages of losses between two rows, written as CSV for `dvc plots`."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stages.train.step import LOSSES
from store.atomic import write_bytes

COLUMNS = ("iteration", "lr", *LOSSES, "confidence")


class Curves:
    """Rows of `COLUMNS`; what a run does not compute stays empty.

    The state goes into the checkpoint, so that a resumed run writes the same file.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add the values of one iteration; 0-d tensors."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
            self._counts[name] = self._counts.get(name, 0) + 1

    def close_row(self, *, iteration: int, lr: float) -> dict[str, float]:
        """Average what was added since the last row and append it as the row of `iteration`."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self.rows.append({"iteration": iteration, "lr": lr, **means})
        self._sums, self._counts = {}, {}
        return self.rows[-1]

    def write(self, path: Path) -> None:
        """Write all rows as CSV, atomically; an empty cell is a value that was not computed."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow(row | {name: f"{row[name]:.6g}" for name in row if name != "iteration"})
        write_bytes(path, text.getvalue().encode())

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the sums of the unfinished one."""
        return {"rows": self.rows, "sums": self._sums, "counts": self._counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.rows = list(state["rows"])
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
