from copy import deepcopy

import pytest
import torch

from stages.student.config import StudentConfig
from stages.student.student import Student, build_student
from stages.train.config import OptimizerConfig
from stages.train.state import build_optimizer, learning_rate

CONFIG = OptimizerConfig(
    lr=6e-5,
    head_lr_factor=10.0,
    regularizer_lr_factor=3.0,
    weight_decay=0.01,
    betas=(0.9, 0.99),
    warmup_iterations=1500,
    warmup_ratio=1e-6,
    power=1.0,
)


@pytest.fixture(scope="module", params=["daformer", "mlp"])
def student(request: pytest.FixtureRequest) -> Student:
    config = StudentConfig(
        backbone="mit_tiny",
        weights="random",
        norm_eps=1e-6,
        drop_path=0.1,
        head=request.param,
        head_channels=8,
        dropout=0.1,
    )
    return build_student(config, num_classes=2, seed=0)


@pytest.mark.parametrize(
    ("iteration", "expected", "rounding"),
    [(49, 1.9577e-6, 1e-10), (99, 3.9503e-6, 1e-10), (1500, 5.775e-5, 0), (16549, 3.5177e-5, 1e-9)],
)
def test_rates_are_those_of_public_training_logs(
    iteration: int, expected: float, rounding: float
) -> None:
    rate = learning_rate(iteration, CONFIG, 40_000)
    assert rate == pytest.approx(expected, rel=1e-12, abs=rounding)


def test_the_fused_update_is_that_of_the_plain_one(student: Student) -> None:
    """Fused changes the order of roundings alone."""
    results = []
    for fused in (True, False):
        copy = deepcopy(student)
        optimizer = build_optimizer(copy, None, CONFIG)
        assert all(group["fused"] for group in optimizer.param_groups)
        if not fused:
            for group in optimizer.param_groups:
                group.update(fused=False, foreach=False)
        generator = torch.Generator().manual_seed(0)
        for _ in range(5):
            for parameter in copy.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        results.append([parameter.detach() for parameter in copy.parameters()])
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-8)


def test_an_update_is_skipped_where_the_device_says_so(student: Student) -> None:
    copy = deepcopy(student)
    optimizer = build_optimizer(copy, None, CONFIG)
    before = deepcopy(copy.state_dict())
    for parameter in copy.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in copy.state_dict().items())
    assert all(float(state["step"]) == 0 for state in optimizer.state.values())
