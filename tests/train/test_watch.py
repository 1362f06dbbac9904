from pathlib import Path

import pytest
import torch

from stages.train.monitor import FiniteCheck
from store.errors import TrainingError

CHECKPOINT = Path("checkpoint.pt")


def watched(*iterations: dict[str, float]) -> FiniteCheck:
    watch = FiniteCheck(torch.device("cpu"))
    for iteration, losses in enumerate(iterations):
        watch.add({name: torch.tensor(value) for name, value in losses.items()}, iteration)
    return watch


def test_finite_losses_pass() -> None:
    watch = watched({"clean": 1.0}, {"clean": 0.0, "mix": 3e38})
    assert float(watch.failed) == 0
    watch.require_finite(CHECKPOINT)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_iteration_that_was_not_finite_is_named_with_its_losses(value: float) -> None:
    watch = watched(
        {"clean": 1.0}, {"clean": 0.5, "mix": value}, {"clean": 7.0, "mix": 8.0}, {"clean": value}
    )
    assert float(watch.failed) == 1
    with pytest.raises(TrainingError) as caught:
        watch.require_finite(CHECKPOINT)
    message = str(caught.value)
    assert message.startswith(f"iteration 1: a loss is not finite (clean 0.5, mix {value:g});")
    assert str(CHECKPOINT) in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_as_a_loss_does(value: float) -> None:
    watch = FiniteCheck(torch.device("cpu"))
    fine, broken = torch.ones(3), torch.tensor([1.0, value])
    watch.add({"clean": torch.tensor(1.0)}, 0, [fine])
    assert float(watch.failed) == 0
    watch.add({"clean": torch.tensor(2.0)}, 1, [fine, broken])
    watch.add({"clean": torch.tensor(3.0)}, 2, [fine])
    assert float(watch.failed) == 1
    with pytest.raises(TrainingError, match=r"^iteration 1: a gradient is not finite \(clean 2\);"):
        watch.require_finite(CHECKPOINT)
