from copy import deepcopy

import pytest
import torch

from stages.student.config import StudentConfig
from stages.student.mit import BACKBONES
from stages.student.student import Student, build_student
from stages.train.config import OptimizerConfig
from stages.train.optimizer import build_optimizer, learning_rate
from stages.train.regularizers.cross_attention import CrossAttentionBranch

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


def regularizer() -> CrossAttentionBranch:
    mit = BACKBONES["mit_tiny"]
    return CrossAttentionBranch(
        mit.widths, {"stride8": 64}, mit.heads, [None, "stride8", "stride8", "stride8"]
    )


def test_groups_hold_every_parameter_once_and_nothing_else(student: Student) -> None:
    fusion = regularizer()
    groups = build_optimizer(student, fusion, CONFIG).param_groups
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in [*student.parameters(), *fusion.parameters()]}


def test_rates_and_decay_follow_the_part(student: Student) -> None:
    groups = build_optimizer(student, regularizer(), CONFIG).param_groups
    found = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert found == {
        "backbone": (6e-5, 0.01),
        "backbone norms": (6e-5, 0.0),
        "head": (6e-5 * 10, 0.01),
        "regularizer": (6e-5 * 3, 0.01),
    }
    assert {group["betas"] for group in groups} == {(0.9, 0.99)}
    by_name = {group["name"]: group["params"] for group in groups}
    head = list(student.head.parameters())
    assert [id(p) for p in by_name["head"]] == [id(p) for p in head]  # batch norms included
    norms = {
        id(p)
        for module in student.backbone.modules()
        if isinstance(module, torch.nn.LayerNorm)
        for p in module.parameters()
    }
    assert {id(p) for p in by_name["backbone norms"]} == norms


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
