"""Markdown tables of a comparison of arms (compare.py)."""

import statistics
from collections.abc import Sequence
from typing import Final

from benchmarks.runs import Result, by_arm, markdown

WARM: Final = "warm-start"
YARDSTICK: Final = "daformer"


def arm_table(results: Sequence[Result]) -> str:
    """One row per arm: mean IoU (%) by seed and over seeds, and its difference by seed."""
    arms = by_arm(results)
    seeds = [f"seed {run['seed']}" for run in arms[WARM]]
    head = ("arm", "iterations", "CPU min", *seeds, "mean ± std", f"minus {YARDSTICK} (min to max)")
    rows: list[Sequence[str]] = [head]
    for arm, runs in arms.items():
        mious = [run["miou"] for run in runs]
        cpu_s = [run["cpu_s"] for run in runs if run["cpu_s"] is not None]
        minutes = f"{statistics.mean(cpu_s) / 60:.1f}" if cpu_s else ""
        std = f" ± {statistics.stdev(mious):.2f}" if len(mious) > 1 else ""
        others = [run["miou"] for run in arms.get(YARDSTICK, []) if arm != YARDSTICK]
        gains = [miou - other for miou, other in zip(mious, others, strict=False)]
        gain = (
            f"{statistics.mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f})"
            if gains
            else ""
        )
        by_seed = [f"{miou:.2f}" for miou in mious]
        mean = f"{statistics.mean(mious):.2f}{std}"
        rows.append((arm, str(runs[0]["iterations"]), minutes, *by_seed, mean, gain))
    return markdown(rows)


def class_table(results: Sequence[Result]) -> str:
    """One row per class: its IoU (%) in each arm, mean over seeds; empty where undefined."""
    arms = by_arm(results)
    rows: list[Sequence[str]] = [("class", *arms)]
    for name in results[0]["iou"]:
        by_run = ([run["iou"][name] for run in runs] for runs in arms.values())
        rows.append(
            (name, *("" if None in iou else f"{statistics.mean(iou):.1f}" for iou in by_run))
        )
    return markdown(rows)
