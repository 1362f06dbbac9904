"""Markdown tables of finished runs: scores, paired differences with their intervals, classes."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from benchmarks.runs import Result

_T975: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""Student's t at 0.975 for 1, 2, ... degrees of freedom."""
MOST_SEEDS: Final = len(_T975) + 1


class Interval(NamedTuple):
    """A mean of paired differences, and the 95 % interval of Student's t around it."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, differences: Sequence[float]) -> "Interval":
        """Estimate from 2 to `MOST_SEEDS` differences."""
        mean, n = statistics.mean(differences), len(differences)
        reach = _T975[n - 2] * statistics.stdev(differences) / n**0.5
        return cls(mean, mean - reach, mean + reach)

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def arm_table(results: Sequence[Result], baseline: str) -> str:
    """One row per arm: mean IoU (%) by seed and over seeds, and the arm minus a baseline.

    The columns of seeds, mean and difference are of the first dataset, those of others are means.

    Args:
        results: Of finished runs; a seed that an arm lacks is an empty cell.
        baseline: The arm that others are compared with.
    """
    arms, seeds = by_arm(results), sorted({run["seed"] for run in results})
    head = ["arm", "steps", "CPU min", *(f"seed {seed}" for seed in seeds), "mean ± std"]
    rows = [[*head, *results[0]["others"], f"minus {baseline} (95 %)"]]
    for arm, runs in arms.items():
        cpu_s = [run["cpu_s"] for run in runs if run["cpu_s"] is not None]
        mious = _by_seed(runs)
        gain = None if arm == baseline else paired(arms, arm, baseline)
        rows.append(
            [
                arm,
                str(runs[0]["iterations"]),
                f"{statistics.mean(cpu_s) / 60:.1f}" if cpu_s else "",
                *(f"{mious[seed]:.2f}" if seed in mious else "" for seed in seeds),
                _spread(list(mious.values())),
                *(f"{statistics.mean(each):.2f}" for each in _others(runs)),
                "" if gain is None else str(gain),
            ]
        )
    return markdown(rows)


def class_table(results: Sequence[Result]) -> str:
    """One row per class: its IoU (%) in each arm, mean over seeds; empty where undefined."""
    arms = by_arm(results)
    rows: list[Sequence[str]] = [("class", *arms)]
    for label in results[0]["iou"]:
        row = [label]
        for runs in arms.values():
            iou = [each for run in runs if (each := run["iou"][label]) is not None]
            row.append(f"{statistics.mean(iou):.1f}" if len(iou) == len(runs) else "")
        rows.append(row)
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
    seeds = sorted(ones.keys() & others.keys())
    return Interval.of([ones[s] - others[s] for s in seeds]) if len(seeds) > 1 else None


def by_arm(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Group results by arm, in the order in which arms come first."""
    return {run["arm"]: [each for each in results if each["arm"] == run["arm"]] for run in results}


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Write a table of which the first row is the head."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def _by_seed(runs: Iterable[Result], dataset: str | None = None) -> dict[int, float]:
    return {run["seed"]: (run["others"][dataset] if dataset else run)["miou"] for run in runs}


def _others(runs: Sequence[Result]) -> list[list[float]]:
    return [[run["others"][name]["miou"] for run in runs] for name in runs[0]["others"]]


def _spread(values: Sequence[float]) -> str:
    """Write mean and, of several values, standard deviation."""
    std = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{std}"
