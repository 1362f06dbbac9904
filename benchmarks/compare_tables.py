"""Markdown tables of a comparison of arms (compare.py)."""

import statistics
from collections.abc import Sequence
from typing import Final

from benchmarks.runs import Result
from benchmarks.tables import by_arm, markdown, spread

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
        others = [run["miou"] for run in arms.get(YARDSTICK, []) if arm != YARDSTICK]
        gains = [miou - other for miou, other in zip(mious, others, strict=False)]
        gain = (
            f"{statistics.mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f})"
            if gains
            else ""
        )
        by_seed = [f"{miou:.2f}" for miou in mious]
        rows.append((arm, str(runs[0]["iterations"]), minutes, *by_seed, spread(mious), gain))
    return markdown(rows)
