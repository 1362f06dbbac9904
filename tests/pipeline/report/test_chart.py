"""Curves become lines inside the axes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report import FAR_ENDS, MOST_POINTS, ORIGIN, chart_of, read_columns
from store.errors import DataError

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 6))


@given(st.dictionaries(st.integers(1, 50_000), NUMBERS, min_size=1, max_size=60))
def test_every_point_lies_inside_the_axes(column: dict[int, float]) -> None:
    chart = chart_of({"clean": {float(x): column[x] for x in sorted(column)}}, ["clean", "mix"])
    ((_, points, _),) = chart["lines"]
    (left, bottom), (right, top) = ORIGIN, FAR_ENDS
    for x, y in points:
        assert left <= x <= right
        assert top <= y <= bottom


def test_a_long_curve_is_thinned() -> None:
    chart = chart_of({"clean": {float(x): float(x) for x in range(40_000)}}, ["clean"])
    ((_, points, last),) = chart["lines"]
    assert MOST_POINTS / 2 < len(points) <= MOST_POINTS
    assert last == "4e+04"


def test_values_that_were_not_computed_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    path.write_text("iteration,clean,mix\n2,1.5,\n4,1.25,\n6,nan,\n8,inf,\n9,1e308,\n")
    assert read_columns(path) == {"clean": {2.0: 1.5, 4.0: 1.25}}
    assert read_columns(tmp_path / "absent.csv") == {}
    assert chart_of({}, ["clean"])["lines"] == []


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    path.write_text("iteration,clean\n2,oops\n")
    with pytest.raises(DataError, match=r"curves.csv: is damaged; run `ssr train` again"):
        read_columns(path)
