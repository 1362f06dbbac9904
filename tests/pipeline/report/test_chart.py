"""Curves become lines inside the axes."""

from pathlib import Path

import pytest

from pipeline.report import read_columns
from store.errors import DataError


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    path.write_text("iteration,clean\n2,oops\n")
    with pytest.raises(DataError, match=r"curves.csv: is damaged; run `ssr train` again"):
        read_columns(path)
