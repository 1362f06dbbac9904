"""Tables that the benchmark prints."""

import statistics
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step_time.arms import Arm
from benchmarks.step_time.parts import PARTS
from benchmarks.step_time.setting import ARMS, LEVEL, Setting
from stages.embed.teachers.sam_encoder import macs_per_tile
from stages.student.student import Pass, build_student
from stages.train.config import TrainConfig
from store.spec import Level

T = TypeVar("T")

COMPARED: Final = (
    ("b", "d", "at most 1.03"),
    ("b mic", "a mic", None),
    ("c", "b", None),
    ("p", "a", "at least 1.5"),
)
"""Pairs of arms, and the goal for the time of the first by that of the second."""


def show_arms(arms: Mapping[str, Arm], memory: Mapping[str, int], setting: Setting) -> None:
    """Print a line for each arm."""
    print("| | arm | s per step | min - max | data s | by a | by b | TFLOP | of SAM | peak GB |")
    print("|" + "---|" * 10)
    for name, arm in arms.items():
        counts: tuple[int, ...] = () if "hrda" in name else _macs_of(name, arm, setting)
        own_and_sam, of_sam = [f"{2 * n / 1e12:.3g}" for n in counts] or ["", ""]
        data = statistics.median(arm.data_seconds)
        ratios = [f"{arm.median / arms[base].median:.2f}x" if base in arms else "" for base in "ab"]
        peak = f"{memory[name] / 1e9:.2f}" if name in memory else ""
        print(
            f"| {name} | {ARMS[name]} | {arm.median:.4g} | {min(arm.seconds):.4g} - "
            f"{max(arm.seconds):.4g} | {data:.3g} | {' | '.join(ratios)} "
            f"| {own_and_sam} | {of_sam} | {peak} |"
        )


def show_ratios(arms: Mapping[str, Arm]) -> None:
    """Print the ratios of pairs of arms within a round, and how sure they are."""
    for one, other, goal in COMPARED:
        if one not in arms or other not in arms:
            continue
        ratios = np.divide(arms[one].seconds, arms[other].seconds)
        low, high = _interval(ratios)
        print(
            f"\n{one} / {other} = {np.median(ratios):.3f}, 95 % interval {low:.3f} - {high:.3f}"
            + (f"; goal: {goal}" if goal else "")
        )
        if (one, other) == ("b", "d"):
            more = np.median(arms["b"].data_seconds) - np.median(arms["d"].data_seconds)
            print(
                f"b and d differ in their data alone: {1e3 * more:.1f} ms, which makes "
                f"b / d = {1 + more / arms['d'].median:.4f}"
            )


def show_parts(parts: Mapping[str, Mapping[str, float]]) -> None:
    """Print mean seconds of each part, a column for each arm."""
    print("\n| s per step | " + " | ".join(parts) + " |\n|---|" + "---|" * len(parts))
    for part in (*PARTS, "step"):
        if any(part in found for found in parts.values()):
            cells = [f"{found[part]:.3g}" if part in found else "" for found in parts.values()]
            print(f"| {part} | {' | '.join(cells)} |")


def _interval(ratios: np.ndarray) -> tuple[float, float]:
    """Bootstrap 95 % of the median."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def step_macs(config: TrainConfig, *, num_classes: int, levels: Mapping[str, Level]) -> int:
    """Count the multiply-accumulates of a training step with self-training and feature distance.

    A backward pass counts twice its forward pass. For MiT-B5 at 512 px, batch 2: 1.9e12 without
    regulariser, 2.9e12 with it. Norms, activations, softmax and resizing are left out.
    """
    side_px, drawn = config.crop_px, config.student.model_copy(update={"weights": "random"})
    with torch.device("meta"), torch.no_grad():
        student = build_student(drawn, num_classes=num_classes, seed=0)
        images = torch.empty(config.batch_size, 3, side_px, side_px)
        features, backbone = _macs(lambda: student.features(images))
        head = _macs(lambda: student.classify(features))[1]
        enhanced = 0
        if config.regularizer.on:
            branch = config.regularizer.build(
                student, {name: level.channels for name, level in levels.items()}
            )
            teacher: dict[str, Tensor] = {
                name: torch.empty(
                    config.batch_size,
                    levels[name].channels,
                    *[side_px // levels[name].stride_px] * 2,
                )
                for name in config.regularizer.used_levels
            }
            enhanced = _macs(lambda: branch.logits(student, Pass(features), teacher))[1]
    learnt = (2 + (config.masking is not None)) * (backbone + head)  # source, mixed, masked
    learnt += len(config.regularizer.on) * enhanced
    return 3 * learnt + (backbone + head) + backbone  # the EMA model, ImageNet's backbone


def _macs(forward: Callable[[], T]) -> tuple[T, int]:
    with FlopCounterMode(display=False) as counter:
        result = forward()
    return result, int(counter.get_total_flops()) // 2


def _macs_of(name: str, arm: Arm, setting: Setting) -> tuple[int, int]:
    """Multiply-accumulates of a step: all of them, and SAM's."""
    own = step_macs(
        arm.config,
        num_classes=arm.models.student.num_classes,
        levels={LEVEL: Level(8, setting.teacher_channels)},
    )
    tiles = 2 * setting.batch if name[0] == "c" else 0
    sam = tiles * macs_per_tile(setting.sam)
    return own + sam, sam
