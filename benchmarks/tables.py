"""Markdown tables of finished runs, a row or column per arm."""

import statistics
from collections.abc import Sequence

from benchmarks.runs import Result


def class_table(results: Sequence[Result]) -> str:
    """One row per class: its IoU (%) in each arm, mean over seeds; empty where undefined."""
    arms = by_arm(results)
    rows: list[Sequence[str]] = [("class", *arms)]
    for label in results[0]["iou"]:
        by_run = ([run["iou"][label] for run in runs] for runs in arms.values())
        rows.append(
            (label, *("" if None in iou else f"{statistics.mean(iou):.1f}" for iou in by_run))
        )
    return markdown(rows)


def by_arm(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Group results by arm, in the order in which arms come first."""
    return {run["arm"]: [each for each in results if each["arm"] == run["arm"]] for run in results}


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Write a table of which the first row is the head."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def spread(values: Sequence[float]) -> str:
    """Write mean and, of several values, standard deviation."""
    std = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{std}"
