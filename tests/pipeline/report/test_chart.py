"""Curves become lines inside the axes, with round ticks."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    chart_of,
    read_columns,
    ticks,
)
from store.errors import DataError

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 6))


@given(NUMBERS, NUMBERS)
def test_ticks_hold_the_range_and_are_round_and_few(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    chosen = ticks(low, high)
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    assert chosen[0] <= low + slack
    assert chosen[-1] >= high - slack
    assert 2 <= len(chosen) <= 8
    step = chosen[1] - chosen[0]
    assert f"{step:.0e}"[0] in "125"


@given(st.dictionaries(st.integers(1, 50_000), NUMBERS, min_size=1, max_size=60))
def test_every_point_lies_inside_the_axes(column: dict[int, float]) -> None:
    ordered = {float(x): column[x] for x in sorted(column)}
    chart = chart_of("loss", {"clean": ordered})
    assert chart is not None
    ((_, points, _),) = chart.lines
    for x, y in points:
        assert LEFT - 0.2 <= x <= WIDTH - RIGHT + 0.2
        assert TOP - 0.2 <= y <= HEIGHT - BOTTOM + 0.2


def test_a_larger_value_is_drawn_higher_and_a_later_one_further_right() -> None:
    chart = chart_of("loss", {"clean": {1.0: 4.0, 2.0: 1.0}})
    assert chart is not None
    ((_, ((x_first, y_first), (x_last, y_last)), last),) = chart.lines
    assert x_first < x_last
    assert y_first < y_last  # the y axis of an SVG points down
    assert last == "1"


def test_a_long_curve_is_averaged_and_keeps_its_mean() -> None:
    chart = chart_of("loss", {"clean": {float(x): float(x % 2) for x in range(40_000)}})
    assert chart is not None
    ((_, points, last),) = chart.lines
    assert len(points) <= MOST_POINTS
    assert last == "1"  # of the rows, not of the average
    assert len({y for _, y in points}) == 1


def test_columns_that_were_not_computed_are_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    path.write_text("iteration,clean,mix\n2,1.5,\n4,1.25,\n6,nan,\n")
    columns = read_columns(path)
    assert columns == {"clean": {2.0: 1.5, 4.0: 1.25}}
    chart = chart_of("losses", {**columns, "mix": {}})
    assert chart is not None
    assert [name for name, _, _ in chart.lines] == ["clean"]
    assert chart_of("losses", {"mix": {}}) is None
    assert read_columns(tmp_path / "absent.csv") == {}


@pytest.mark.parametrize("rows", ["2,oops", "2,1e300", "nan,1\ninf,1\n4,-inf"])
def test_a_damaged_file_is_an_error(tmp_path: Path, rows: str) -> None:
    path = tmp_path / "curves.csv"
    path.write_text(f"iteration,clean\n{rows}\n")
    with pytest.raises(DataError, match=r"curves.csv: is damaged; run `ssr train` again"):
        read_columns(path)


@pytest.mark.parametrize("value", [0.0, 1e-14, 5e-324, -3e-9, 1e99])
def test_a_single_value_has_an_axis_that_says_its_size(value: float) -> None:
    chart = chart_of("norm", {"a": {1.0: value}})
    assert chart is not None
    assert len({text for _, text in chart.y_ticks}) == len(chart.y_ticks)
