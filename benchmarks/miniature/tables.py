"""Tables of the experiment: differences of arms, at dusk and on what no arm trained for."""

from collections.abc import Sequence
from typing import Final

from benchmarks.miniature.arms import BASELINE, EQUAL_TIME, GUIDED
from benchmarks.runs import Result
from benchmarks.tables import by_arm, markdown, paired

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
)
"""The first arm minus the second."""


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
