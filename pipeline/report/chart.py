"""Curves as lines of an SVG: data to coordinates, the page draws them in its own colours."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 30, 12, 30
"""Of the drawing and its margins, in units of the SVG."""

LARGEST, SMALLEST = 1e100, 1e-100
"""Of numbers that are no sign of a damaged file, and of differences that are drawn."""

MOST_POINTS: Final = 400
"""Of a line; a longer one is averaged in groups, a page is no place for 40,000 rows."""

Column = Mapping[float, float]
"""Iteration -> value; undefined ones are not there."""


@dataclass(frozen=True)
class Line:
    """A named curve.

    Attributes:
        name: For the legend.
        points: `x,y x,y ...` in units of the SVG.
        last: The last value.
        dots: (x, y) of each point where they are few, else none.
    """

    name: str
    points: str
    last: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """Lines over the iterations, and what the axes say.

    Attributes:
        title: What is drawn.
        note: How to read it.
        lines: The curves.
        x_ticks: (position, text) along the bottom.
        y_ticks: Likewise along the left side.
    """

    title: str
    note: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def read_columns(path: Path) -> Mapping[str, Column]:
    """Read a CSV file of `stages.train.tracking`; none where it is not there.

    Raises:
        ValueError: A cell is no number or absurdly large, or there is no column of iterations.
    """
    if not path.is_file():
        return {}
    columns: dict[str, dict[float, float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            iteration = float(row["iteration"])
            for name, cell in row.items():
                value = float(cell) if cell and name != "iteration" else math.nan
                if abs(iteration) > LARGEST or LARGEST < abs(value) < math.inf:
                    raise ValueError(f"{name} {cell} at iteration {iteration}")
                if math.isfinite(value) and math.isfinite(iteration):
                    columns.setdefault(name, {})[iteration] = value
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
    columns = {name: _thinned(column) for name, column in given.items()}
    x_ticks = ticks(min(map(min, columns.values())), max(map(max, columns.values())))
    values = [value for column in columns.values() for value in column.values()]
    y_ticks = ticks(min(0.0, *values), max(values))
    x_scale = _Scale(x_ticks, LEFT, WIDTH - RIGHT)
    y_scale = _Scale(y_ticks, HEIGHT - BOTTOM, TOP)
    lines = []
    for name, column in columns.items():
        places = [(x_scale.of(x), y_scale.of(y)) for x, y in column.items()]
        lines.append(
            Line(
                name=name,
                points=" ".join(f"{x:g},{y:g}" for x, y in places),
                last=f"{list(given[name].values())[-1]:.4g}",
                dots=tuple(places) if len(places) <= 12 else (),
            )
        )
    return Chart(title, note, tuple(lines), x_scale.labels, y_scale.labels)


def ticks(low: float, high: float, *, about: int = 5) -> tuple[float, ...]:
    """Choose round values, 1, 2 or 5 times a power of ten apart, that hold a range between them."""
    span = high - low if high - low > SMALLEST else max(abs(high), SMALLEST)
    power = 10 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= about)
    first, last = math.floor(low / step), math.ceil(high / step)
    return tuple(n * step for n in range(first, max(last, first + 1) + 1))


class _Scale:
    """Values to units of the SVG, along one axis."""

    def __init__(self, ticks: Sequence[float], begin: float, end: float) -> None:
        self._low, span = ticks[0], ticks[-1] - ticks[0]
        self._begin, self._by = begin, (end - begin) / span
        step = ticks[1] - ticks[0]  # what is left of 0 by rounding is no number to write
        self.labels = tuple(
            (self.of(tick), f"{0 if abs(tick) < step / 2 else tick:g}") for tick in ticks
        )

    def of(self, value: float) -> float:
        return round(self._begin + (value - self._low) * self._by, 1)


def _thinned(column: Column) -> Column:
    """Average groups of neighbours where there are more points than a line needs."""
    size = -(-len(column) // MOST_POINTS)
    if size == 1:
        return column
    pairs = list(column.items())
    groups = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return {_mean(x for x, _ in group): _mean(y for _, y in group) for group in groups}


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
