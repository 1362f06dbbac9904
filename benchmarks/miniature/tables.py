"""Tables of the experiment: differences of arms, and what SeMask and Rein have learnt."""

import csv
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.miniature.arms import BASELINE, EQUAL_TIME, GUIDED
from benchmarks.runs import Result
from benchmarks.tables import by_arm, markdown, paired
from stages.train.monitor import STAGES

DIFFERENCES: Final = (
    (GUIDED, EQUAL_TIME),
    (GUIDED, BASELINE),
    ("SSR", BASELINE),
    ("SSR", "SSR, online"),
    ("SSR", "SSR, untrained"),
    ("SSR", "SSR, shuffled"),
    (GUIDED, "guided, online"),
    ("guided, 128 px", "guided, online, 128 px"),
    ("guided, untrained", BASELINE),
    ("guided, shuffled", BASELINE),
    ("guided, untrained", EQUAL_TIME),
    ("guided, shuffled", EQUAL_TIME),
    ("guided, int8", GUIDED),
    ("oracle", BASELINE),
    ("rein, real", "rein, real, frozen"),
    ("rein, real", "rein, real, LoRA"),
    ("rein, real", "rein, real, full"),
    ("rein, real", "MiT, source-only, as many steps"),
)
"""The first arm minus the second."""

HEALTH: Final = {
    "gamma by stage": tuple(f"gamma_{stage}" for stage in range(STAGES)),
    "scale of tokens": ("rein_scale", "student_rein_scale"),
    "‖Δf‖ / ‖f‖": ("rein_delta", "student_rein_delta"),
}
"""Heading -> columns of `health.csv`, of which a run has those of its method."""


def difference_table(results: Sequence[Result]) -> str:
    """One row per question of `DIFFERENCES`, a column per dataset."""
    arms = by_arm(results)
    others = list(results[0]["others"])
    rows = [["difference", "dusk", *others]]
    for one, other in DIFFERENCES:
        if one in arms and other in arms:
            cells = [paired(arms, one, other, dataset) for dataset in (None, *others)]
            rows.append([f"{one} minus {other}", *(str(cell) if cell else "" for cell in cells)])
    return markdown(rows)


def health_table(results: Sequence[Result], folder_of: Callable[[str, int], Path]) -> str:
    """One row per arm with SeMask or Rein: the last row of `health.csv`, mean over seeds.

    Args:
        results: Of finished runs.
        folder_of: (arm, seed) -> the run's folder; runs of an earlier piece lie elsewhere.

    Returns:
        The table, empty where no run has any of it.
    """
    rows: list[Sequence[str]] = [("arm", *HEALTH)]
    for arm, runs in by_arm(results).items():
        files = [folder_of(arm, run["seed"]) / "health.csv" for run in runs]
        last = [
            list(csv.DictReader(path.read_text().splitlines()))[-1]
            for path in files
            if path.is_file()
        ]
        means = [
            [
                statistics.mean(float(row[name]) for row in last)
                for name in names
                if last and name in last[0]
            ]
            for names in HEALTH.values()
        ]
        if any(means):
            rows.append((arm, *(", ".join(f"{mean:.3g}" for mean in each) for each in means)))
    return markdown(rows) if len(rows) > 1 else ""
