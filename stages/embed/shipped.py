"""Weights that come with the project; no torch, so that a no-op `ssr embed` need not import it."""

from pathlib import Path
from typing import Final

SHIPPED: Final = {"drawn": Path(__file__).parent / "pretrained" / "drawn.pth"}
"""Name in `embed.weights` -> its file; a card beside it says how it was made."""


def weights_path(weights: str) -> Path:
    """Return the file that `embed.weights` names, by a shipped name or a path; not `random`."""
    return SHIPPED.get(weights) or Path(weights).expanduser()
