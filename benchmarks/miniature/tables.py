"""Tables of the experiment: means, spreads and paired differences with their intervals."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from benchmarks.miniature.arms import LONGER, YARDSTICK
from benchmarks.runs import Result
from benchmarks.tables import by_arm, markdown, spread

_T975: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""Student's t at 0.975 for 1, 2, ... degrees of freedom."""

DIFFERENCES: Final = (
    ("guided", LONGER),
    ("guided", YARDSTICK),
    ("SSR", YARDSTICK),
    ("SSR", "SSR, online"),
    ("SSR", "SSR, untrained"),
    ("SSR", "SSR, shuffled"),
    ("guided", "guided, online"),
    ("guided, untrained", YARDSTICK),
    ("guided, shuffled", YARDSTICK),
    ("guided, untrained", LONGER),
    ("guided, shuffled", LONGER),
    ("guided, int8", "guided"),
    ("oracle", YARDSTICK),
)
"""What is asked: the first arm minus the second."""


class Interval(NamedTuple):
    """A mean of paired differences, and the 95 % interval of Student's t around it."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, differences: Sequence[float]) -> "Interval":
        """Estimate from 2 to 21 differences."""
        mean, n = statistics.mean(differences), len(differences)
        reach = _T975[n - 2] * statistics.stdev(differences) / n**0.5
        return cls(mean, mean - reach, mean + reach)

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def arm_table(results: Sequence[Result]) -> str:
    """One row per arm: its mean IoU (%) by seed and over seeds, and its difference to DAFormer.

    The columns of seeds, mean and difference are of the first dataset, those of others are means.
    """
    arms = by_arm(results)
    first = next(iter(arms.values()))
    head = ["arm", "steps", "CPU min", *(f"seed {run['seed']}" for run in first), "mean ± std"]
    head += [*first[0]["others"], f"minus {YARDSTICK} (95 %)"]
    rows = [head]
    for name, runs in arms.items():
        mious, cpu_s = [run["miou"] for run in runs], [run["cpu_s"] for run in runs if run["cpu_s"]]
        minutes = f"{statistics.mean(cpu_s) / 60:.1f}" if cpu_s else ""
        row = [name, str(runs[0]["iterations"]), minutes, *(f"{miou:.2f}" for miou in mious)]
        row.append(spread(mious))
        row += [f"{statistics.mean(each):.2f}" for each in _others(runs).values()]
        gain = paired(arms, name, YARDSTICK) if name != YARDSTICK else None
        rows.append([*row, str(gain) if gain else ""])
    return markdown(rows)


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


def paired(
    arms: Mapping[str, Sequence[Result]], one: str, other: str, dataset: str | None = None
) -> Interval | None:
    """Estimate one arm minus another over the seeds that both have; None below two of them.

    Args:
        arms: Results by arm.
        one: Name of an arm.
        other: Name of an arm.
        dataset: One of `others`; None is the first dataset.
    """
    ones, others = (_by_seed(arms.get(name, ()), dataset) for name in (one, other))
    seeds = ones.keys() & others.keys()
    return Interval.of([ones[s] - others[s] for s in sorted(seeds)]) if len(seeds) > 1 else None


def _by_seed(runs: Iterable[Result], dataset: str | None) -> dict[int, float]:
    return {run["seed"]: (run["others"][dataset] if dataset else run)["miou"] for run in runs}


def _others(runs: Sequence[Result]) -> dict[str, list[float]]:
    return {name: [run["others"][name]["miou"] for run in runs] for name in runs[0]["others"]}
