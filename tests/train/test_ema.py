import copy

import pytest
import torch
from torch import nn

from stages.train.adaptation.ema import ema_alpha, update_ema


def networks() -> tuple[nn.Module, nn.Module]:
    student = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    student(torch.randn(4, 2, 5, 5))
    ema = copy.deepcopy(student).requires_grad_(False)
    for parameter in ema.parameters():
        parameter.fill_(1.0)
    for buffer in ema.buffers():
        buffer.zero_()
    return ema, student


def test_ramp_is_that_of_the_specification() -> None:
    assert ema_alpha(0, 0.999) == 0
    assert ema_alpha(1, 0.999) == 0.5
    assert ema_alpha(998, 0.999) == pytest.approx(1 - 1 / 999, abs=1e-15)
    assert ema_alpha(999, 0.999) == ema_alpha(50_000, 0.999) == 0.999


def test_first_update_copies_parameters_but_no_buffers() -> None:
    ema, student = networks()
    update_ema(ema, student, 0, 0.999)
    for old, new in zip(ema.parameters(), student.parameters(), strict=True):
        assert torch.equal(old, new)
        assert old is not new
    assert not any(buffer.any() for buffer in ema.buffers())


def test_later_updates_average_and_leave_the_student_alone() -> None:
    ema, student = networks()
    before = copy.deepcopy(student.state_dict())
    update_ema(ema, student, 3, 0.999)
    for old, new in zip(ema.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(old, 0.75 + 0.25 * new.detach())
    assert not any(buffer.any() for buffer in ema.buffers())
    assert all(torch.equal(before[n], t) for n, t in student.state_dict().items())


def test_update_builds_no_graph_though_the_student_trains() -> None:
    ema, student = networks()
    update_ema(ema, student, 3, 0.999)
    assert not any(p.requires_grad or p.grad_fn is not None for p in ema.parameters())
