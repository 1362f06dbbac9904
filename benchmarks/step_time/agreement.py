"""Distance of the gradients of the ported step from ours."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.models.segformer.modeling_segformer import SegformerDropPath

from benchmarks.step_time.arms import build_arm
from benchmarks.step_time.setting import Setting
from stages.train.step import draw_step


def port_error(folder: Path, setting: Setting) -> float:
    """Relative distance of the port's gradients from those of arm a, in float32, without noise."""
    plain = replace(setting, precision="float32", compile=False, workers=0)
    ours, theirs = (_gradients(arm, folder, plain) for arm in ("a", "p"))
    return float((theirs - ours).norm() / ours.norm())


def _gradients(arm: str, folder: Path, setting: Setting) -> Tensor:
    """All gradients of the student after the first iteration, as one vector."""
    built = build_arm(arm, folder, setting)
    student = built.models.student
    for module in student.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d | SegformerDropPath):
            module.eval()
    samples = built.load()
    draws = draw_step(built.config, samples.source_label, 0)
    assert draws is not None
    built.learn(samples, draws, 0)
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
