"""The table of arms as a picture: a dot per seed, a bar at the mean."""

import statistics
from collections.abc import Sequence
from html import escape
from typing import Final

from benchmarks.runs import Result
from benchmarks.tables import by_arm

_ROW, _LEFT, _RIGHT, _TOP, _BOTTOM, _WIDTH = 26, 190, 30, 34, 40, 760
_INK, _PALE, _DOT, _MEAN = "#444", "#ddd", "#7aa6d8", "#1f4e8c"
_TICK: Final = 5
"""Percent between the lines of the grid."""


def plot(results: Sequence[Result], images: str) -> str:
    """Draw mean IoU at dusk as SVG: one row per arm, in the order of the results.

    Args:
        results: Of finished runs.
        images: What they are measured on, for the title.
    """
    title = f"mean IoU (%) at dusk, {images} images; dots: seeds, bars: means"
    arms = by_arm(results)
    mious = [run["miou"] for run in results]
    low = int(min(mious) // _TICK) * _TICK
    high = int(max(mious) // _TICK + 1) * _TICK
    height = _TOP + _ROW * len(arms) + _BOTTOM

    def x(miou: float) -> str:
        return f"{_LEFT + (miou - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT):.1f}"

    bottom = _TOP + _ROW * len(arms)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" fill="{_INK}">{escape(title)}</text>',
    ]
    for tick in range(low, high + 1, _TICK):
        parts.append(f'<path d="M{x(tick)} {_TOP}V{bottom}" stroke="{_PALE}"/>')
        place = f'x="{x(tick)}" y="{bottom + 18}" text-anchor="middle"'
        parts.append(f'<text {place} fill="{_INK}">{tick}</text>')
    for row, (name, runs) in enumerate(arms.items()):
        y = _TOP + _ROW * (row + 0.5)
        parts.append(
            f'<text x="{_LEFT - 10}" y="{y + 4:.1f}" fill="{_INK}" text-anchor="end">'
            f"{escape(name)}</text>"
        )
        parts += [
            f'<circle cx="{x(run["miou"])}" cy="{y:.1f}" r="4" fill="{_DOT}"/>' for run in runs
        ]
        mean = x(statistics.mean(run["miou"] for run in runs))
        parts.append(f'<path d="M{mean} {y - 9:.1f}v18" stroke="{_MEAN}" stroke-width="3"/>')
    return "\n".join((*parts, "</svg>")) + "\n"
