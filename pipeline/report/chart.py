"""Curves of a training as lines of an SVG, which the page draws in its own colours."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from stages.train.monitor import STAGES
from stages.train.step import LOSSES
from store.errors import DataError

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 30, 12, 30
"""Of the drawing and its margins, in units of the SVG."""

LARGEST, SMALLEST = 1e100, 1e-100
"""Of numbers that are no sign of a damaged file, and of differences that are drawn."""

MOST_POINTS: Final = 400
"""Of a line; a longer one is averaged in groups, a page is no place for 40,000 rows."""

Column = Mapping[float, float]
"""Iteration -> value; undefined ones are not there."""

_HEALTH: Final[Mapping[str, tuple[str, str]]] = {
    "residual": ("residual over features", "what fusion adds; 0 is a dead branch"),
    "entropy": ("attention entropy", "1 is uniform: it looks nowhere"),
    "swap": ("change by another image's tokens", "0 ignores the teacher"),
    "gradient": ("gradient norm of fusion", ""),
}


@dataclass(frozen=True)
class Chart:
    """Lines over the iterations, and what the axes say.

    Attributes:
        title: What is drawn.
        note: How to read it.
        lines: Name, (x, y) of each point in units of the SVG, and last value of each curve.
        x_ticks: (position, text) along the bottom.
        y_ticks: Likewise along the left side.
    """

    title: str
    note: str
    lines: Sequence[tuple[str, Sequence[tuple[float, float]], str]]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]


def charts(run: Path) -> tuple[Chart, ...]:
    """Draw what a run logged; curves that it does not have are left out.

    Raises:
        DataError: There is none, or a file is damaged.
    """
    curves, health, validation = (
        read_columns(run / name) for name in ("curves.csv", "health.csv", "validation.csv")
    )
    drawn = [
        chart_of("losses", _some(curves, *LOSSES), note="averages between two rows"),
        chart_of(
            "confidence of pseudo-labels",
            _some(curves, "confidence"),
            note="share of pixels above the threshold",
        ),
        chart_of(
            "mean IoU while training",
            _some(validation, "miou", "enhanced", "wrong_teacher"),
            note="percent; enhanced: the branch; wrong teacher: with another image's features, no "
            "lower if they are ignored",
        ),
    ]
    for measure, (title, note) in _HEALTH.items():
        stages = {f"stage {n}": health.get(f"{measure}_{n}", {}) for n in range(STAGES)}
        drawn.append(chart_of(title, stages, note=note))
    found = tuple(chart for chart in drawn if chart is not None)
    if not found:
        raise DataError(f"{run}/curves.csv: there are no curves yet; run `ssr train`")
    return found


def read_columns(path: Path) -> Mapping[str, Column]:
    """Read a CSV file of `stages.train.monitor`; none where it is not there.

    Raises:
        DataError: A cell is not a number or absurdly large, or there is no column of iterations.
    """
    if not path.is_file():
        return {}
    columns: dict[str, dict[float, float]] = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                iteration = float(row["iteration"])
                for name, cell in row.items():
                    value = float(cell) if cell and name != "iteration" else math.nan
                    if abs(iteration) > LARGEST or LARGEST < abs(value) < math.inf:
                        raise ValueError(f"{name} {cell} at iteration {iteration}")
                    if math.isfinite(value) and math.isfinite(iteration):
                        columns.setdefault(name, {})[iteration] = value
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: is damaged; run `ssr train` again, which rewrites it") from error
    return columns


def chart_of(title: str, columns: Mapping[str, Column], *, note: str = "") -> Chart | None:
    """Lay out columns as lines over a common axis; None where there is nothing to draw.

    Args:
        title: What is drawn.
        columns: Name -> values; empty ones are left out.
        note: How to read it.
    """
    given = {name: column for name, column in columns.items() if column}
    if not given:
        return None
    thinned = {name: _thinned(column) for name, column in given.items()}
    every = np.concatenate(list(thinned.values()), axis=1)
    xs, ys = ticks(every[0].min(), every[0].max()), ticks(min(0.0, every[1].min()), every[1].max())
    x_span, y_span = (LEFT, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP)

    def place(
        values: Sequence[float], ticks: Sequence[float], span: tuple[int, int]
    ) -> list[float]:
        return [round(at, 1) for at in np.interp(values, (ticks[0], ticks[-1]), span).tolist()]

    return Chart(
        title=title,
        note=note,
        lines=[
            (
                name,
                list(zip(place(x, xs, x_span), place(y, ys, y_span), strict=True)),
                f"{list(given[name].values())[-1]:.4g}",
            )
            for name, (x, y) in thinned.items()
        ],
        x_ticks=list(zip(place(xs, xs, x_span), _texts(xs), strict=True)),
        y_ticks=list(zip(place(ys, ys, y_span), _texts(ys), strict=True)),
    )


def ticks(low: float, high: float, *, about: int = 5) -> tuple[float, ...]:
    """Choose round values, 1, 2 or 5 times a power of ten apart, that hold a range between them."""
    span = high - low if high - low > SMALLEST else max(abs(high), SMALLEST)
    power = 10 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= about)
    first, last = math.floor(low / step), math.ceil(high / step)
    return tuple(n * step for n in range(first, max(last, first + 1) + 1))


def _texts(ticks: Sequence[float]) -> list[str]:
    step = ticks[1] - ticks[0]  # what is left of 0 by rounding is no number to write
    return [f"{0 if abs(tick) < step / 2 else tick:g}" for tick in ticks]


def _some(columns: Mapping[str, Column], *names: str) -> dict[str, Column]:
    return {name.replace("_", " "): columns[name] for name in names if name in columns}


def _thinned(column: Column) -> np.ndarray:
    """Return iterations and values (2, N), averaged in groups where a line needs no more points."""
    points = np.array([list(column), list(column.values())])
    groups = min(points.shape[1], MOST_POINTS)
    every = -(-points.shape[1] // groups)
    starts = np.arange(0, points.shape[1], every)
    return np.add.reduceat(points, starts, axis=1) / np.diff(starts, append=points.shape[1])
