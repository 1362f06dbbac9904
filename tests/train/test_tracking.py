import csv
from pathlib import Path

import pytest
import torch

from stages.train.monitor import Curves


def filled() -> Curves:
    """Two rows of two iterations each, and one iteration of a third."""
    curves = Curves()
    curves.add({"clean": torch.tensor(1.0)})
    curves.add({"clean": torch.tensor(2.0), "mix": torch.tensor(5.0)})
    curves.close_row(iteration=2, lr=0.5)
    curves.add({"clean": torch.tensor(0.25), "mix": torch.tensor(1.0)})
    curves.add({"clean": torch.tensor(0.75), "mix": torch.tensor(2.0)})
    curves.close_row(iteration=4, lr=0.25)
    curves.add({"clean": torch.tensor(8.0)})
    return curves


def test_rows_are_averages_over_the_iterations_that_computed_a_value(tmp_path: Path) -> None:
    filled().write(tmp_path)
    assert (tmp_path / "curves.csv").read_text() == (
        "iteration,lr,clean,enhanced_source,feature_distance,mix,enhanced_mix,masked,confidence\n"
        "2,0.5,1.5,,,5,,,\n"
        "4,0.25,0.5,,,1.5,,,\n"
    )


def test_a_row_is_returned_when_it_is_closed() -> None:
    curves = filled()
    row = curves.close_row(iteration=5, lr=0.125)
    assert row == curves.rows[-1] == {"iteration": 5, "lr": 0.125, "clean": 8.0}


def test_restored_curves_continue_an_unfinished_row() -> None:
    curves, restored = filled(), Curves()
    restored.load_state_dict(curves.state_dict())
    for one in (curves, restored):
        one.add({"clean": torch.tensor(2.0), "confidence": torch.tensor(0.5)})
        one.close_row(iteration=6, lr=0.1)
    assert restored.rows == curves.rows
    assert restored.rows[-1] == {"iteration": 6, "lr": 0.1, "clean": 5.0, "confidence": 0.5}


def test_restored_curves_do_not_share_their_rows() -> None:
    curves, restored = filled(), Curves()
    restored.load_state_dict(curves.state_dict())
    restored.close_row(iteration=5, lr=0.1)
    assert len(curves.rows) == 2
    assert curves.close_row(iteration=6, lr=0.1)["clean"] == 8.0


def test_a_late_iteration_keeps_all_its_digits(tmp_path: Path) -> None:
    curves = Curves()
    curves.add({"clean": torch.tensor(1.23456789)})
    curves.close_row(iteration=1_234_567, lr=6e-5 / 7)
    curves.write(tmp_path)
    [row] = csv.DictReader((tmp_path / "curves.csv").read_text().splitlines())
    assert row["iteration"] == "1234567"
    assert float(row["lr"]) == pytest.approx(6e-5 / 7, rel=1e-5)
    assert float(row["clean"]) == pytest.approx(1.23456789, rel=1e-5)
