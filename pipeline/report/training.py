"""What the report says of training: the curves that `ssr train` wrote, as charts."""

import csv
from collections.abc import Mapping
from pathlib import Path

from pipeline.report.chart import Chart, Column, chart_of, read_columns
from stages.train.health import STAGES
from stages.train.step import LOSSES
from store.errors import DataError

_HEALTH: Mapping[str, tuple[str, str]] = {
    "residual": ("residual over features", "what fusion adds; 0 is a dead branch"),
    "entropy": ("attention entropy", "1 is uniform: it looks nowhere"),
    "swap": ("change by another image's tokens", "0 ignores the teacher"),
    "gradient": ("gradient norm of fusion", ""),
}


def charts(run: Path) -> tuple[Chart, ...]:
    """Draw what a run logged; curves that it does not have are left out.

    Raises:
        DataError: There is none, or a file is damaged.
    """
    curves, health, validation = (
        _columns(run / name) for name in ("curves.csv", "health.csv", "validation.csv")
    )
    drawn = [
        chart_of("losses", _some(curves, LOSSES), note="averages between two rows"),
        chart_of(
            "confidence of pseudo-labels",
            _some(curves, ("confidence",)),
            note="share of pixels above the threshold",
        ),
        chart_of(
            "mean IoU while training",
            _some(validation, ("miou", "enhanced", "wrong_teacher")),
            note="percent; enhanced: the branch; wrong teacher: with another image's features, no "
            "lower if they are ignored",
        ),
        *(
            chart_of(title, _by_stage(health, measure), note=note)
            for measure, (title, note) in _HEALTH.items()
        ),
    ]
    found = tuple(chart for chart in drawn if chart is not None)
    if not found:
        raise DataError(f"{run}/curves.csv: there are no curves yet; run `ssr train`")
    return found


def _columns(path: Path) -> Mapping[str, Column]:
    try:
        return read_columns(path)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: is damaged; run `ssr train` again, which rewrites it") from error


def _some(columns: Mapping[str, Column], names: tuple[str, ...]) -> dict[str, Column]:
    return {name.replace("_", " "): columns[name] for name in names if name in columns}


def _by_stage(columns: Mapping[str, Column], measure: str) -> dict[str, Column]:
    named = {f"stage {stage}": f"{measure}_{stage}" for stage in range(STAGES)}
    return {name: columns[column] for name, column in named.items() if column in columns}
