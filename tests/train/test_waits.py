"""The host never waits for the device in a step: it asks for no value."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stages.train.draws import draw_step
from stages.train.loop import _values
from stages.train.optimizer import build_optimizer
from stages.train.step import train_step
from stages.train.tracking import Curves
from stages.train.watch import LossWatch
from tests.train.example import train_config
from tests.train.test_step import FEATURE_DISTANCE, MASKING, batch_of, models_for

ASKING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal"}
"""Operators whose result the host must know before it can go on."""

ALL: dict[str, Any] = {
    "masking": MASKING,
    "feature_distance": FEATURE_DISTANCE,
    "self_training": {"jitter_probability": 1.0, "blur_probability": 1.0},
    "student": {"drop_path": 0.3, "dropout": 0.3},
}


class NoAsking(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuse operators that a GPU would have to be waited for."""

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        assert func.overloadpacket.__name__ not in ASKING, func
        return func(*args, **(kwargs or {}))


def run_step(device: torch.device, **changes: Any) -> None:  # noqa: ANN401
    config = train_config(**ALL | changes)
    models = models_for(config, imagenet=True)
    models.settle(config, device)
    optimizer = build_optimizer(models.student, models.regularizer, config.optimizer)
    watch, curves = LossWatch(device), Curves()
    batch = batch_of()
    draws = draw_step(config, batch.source_label, 0)
    there = batch.to(device)
    with waiting_is_an_error(device):
        for iteration in (0, 1):
            result = train_step(models, there, draws, config=config, iteration=iteration)
            watch.add(result.losses, iteration)
            optimizer.found_inf = watch.failed  # type: ignore[attr-defined]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            curves.add(_values(result))
    assert curves.close_row(iteration=1, lr=0.0)["clean"] > 0


@contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    if device.type == "cpu":
        with NoAsking():  # type: ignore[no-untyped-call]
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "changes",
    [{}, {"precision": "bfloat16"}, {"micro_batch_size": 1}],
    ids=["float32", "bfloat16", "micro-batches"],
)
def test_a_step_its_update_and_its_curves_ask_for_no_value(changes: dict[str, Any]) -> None:
    run_step(torch.device("cpu"), **changes)


def test_asking_is_noticed() -> None:
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoAsking():  # type: ignore[no-untyped-call]
        float(torch.ones(()))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_on_a_gpu_never_waits_for_it(precision: str) -> None:
    run_step(torch.device("cuda"), precision=precision)
