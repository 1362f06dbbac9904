"""Case 10: warm-up and decay of the learning rate."""

import numpy as np
import torch

from stages.train.config import OptimizerConfig
from stages.train.state import learning_rate, set_learning_rate
from tests.parity.cases import Case, Reference

TOL = 1e-15  # absolute


def config_of(case: Case) -> OptimizerConfig:
    assert case.meta["min_lr"] == 0
    return OptimizerConfig(
        lr=case.meta["base_lr"],
        head_lr_factor=case.meta["head_mult"],
        regularizer_lr_factor=1.0,
        weight_decay=0.01,
        betas=(0.9, 0.999),
        warmup_iterations=case.meta["warmup_iters"],
        warmup_ratio=case.meta["warmup_ratio"],
        power=case.meta["power"],
    )


def test_learning_rates_of_backbone_and_head_are_the_official_ones(reference: Reference) -> None:
    case = reference("lr_schedule")
    config = config_of(case)
    groups = [
        {"params": [torch.zeros(1)], "lr_factor": factor} for factor in (1.0, config.head_lr_factor)
    ]
    optimizer = torch.optim.AdamW(groups)
    rows = zip(case["out/iters"], case["out/lr_backbone"], case["out/lr_head"], strict=True)
    for iteration, backbone, head in rows:
        set_learning_rate(optimizer, learning_rate(int(iteration), config, case.meta["max_iters"]))
        assert abs(optimizer.param_groups[0]["lr"] - backbone) <= TOL
        assert abs(optimizer.param_groups[1]["lr"] - head) <= TOL


def test_the_whole_schedule_sums_up_and_peaks_as_the_official_one(reference: Reference) -> None:
    case = reference("lr_schedule")
    config, iterations = config_of(case), case.meta["max_iters"]
    rates = np.array([learning_rate(t, config, iterations) for t in range(iterations)])
    assert abs(rates.sum() - float(case["out/sum_lr_backbone"])) <= TOL * iterations
    assert abs(rates.max() - float(case["out/max_lr_backbone"])) <= TOL
    assert rates.argmax() == int(case["out/argmax_lr_backbone"])
