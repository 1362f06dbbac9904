"""A drawn street world to try the method on, and a tiny teacher that was pretrained on it."""

from pathlib import Path
from typing import Final

TEACHER: Final = Path(__file__).parent / "teacher.pth"
"""Weights for `embed.teacher`, `kind: sam` and `architecture: tiny`; `teacher.md` is their card."""
