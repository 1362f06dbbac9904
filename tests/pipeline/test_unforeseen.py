"""What nobody foresaw ends in one line and a file, too."""

import re
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import torch
from typer.core import TyperGroup

from tests.pipeline.workplace import Outcome, ssr


def failing(error: Exception) -> Outcome:
    with mock.patch.object(TyperGroup, "invoke", side_effect=error):
        return ssr("train", "--out", "mine")


def test_an_unforeseen_error_is_one_line_that_names_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome = failing(ZeroDivisionError("by zero\nand more"))
    assert outcome.code == 1
    assert re.fullmatch(r"ssr: unforeseen: ZeroDivisionError: by zero; .*\n", outcome.err)
    (file,) = tmp_path.iterdir()
    assert str(file) in outcome.err
    saved = file.read_text()
    assert "Traceback" in saved
    assert "and more" in saved
    assert "'--out', 'mine'" in saved


def test_on_a_full_disk_the_traceback_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    outcome = failing(KeyError("x"))
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("ssr: unforeseen: KeyError: 'x'; ")


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried\nto")]
)
def test_memory_that_is_short_is_a_line_with_what_needs_less(error: Exception) -> None:
    outcome = failing(error)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "train.micro_batch_size" in outcome.err
