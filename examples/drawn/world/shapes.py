"""Shapes of a drawn street: flat polygons in space, and the outlines that they are cut from.

Frame: metres (right, up, ahead) from the ground below the eye. No colours and no pixels here.
"""

import math
from dataclasses import dataclass
from enum import IntEnum, auto
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# n polygons of k corners each, all convex
Points = NDArray[np.float64]  # (..., 3) in space or (..., 2) on a flat drawing: along, up

EYE_M = 1.6

_TURN = np.arange(14) * (2 * np.pi / 14)
CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=-1)  # (14, 2)


class Label(IntEnum):
    """Classes of the drawn world, in the order of its class table."""

    SKY = 0
    ROAD = 1
    PAVEMENT = 2
    BUILDING = 3
    TREE = 4
    POLE = 5
    SIGN = 6
    FENCE = 7
    CAR = 8
    PERSON = 9
    BICYCLE = 10


class Material(IntEnum):
    """What a surface is made of; a style gives it colour, texture and glow."""

    SKY = 0
    ASPHALT = auto()
    MARKING = auto()
    PAVING = auto()
    KERB = auto()
    WALL = auto()
    TRIM = auto()
    ROOF = auto()
    FRAME = auto()
    WINDOW = auto()
    LIT_WINDOW = auto()
    LEAF = auto()
    BARK = auto()
    METAL = auto()
    LAMP = auto()
    SIGN_RIM = auto()
    SIGN_FACE = auto()
    SIGNAL = auto()
    FENCE = auto()
    PAINT = auto()
    GLASS = auto()
    RUBBER = auto()
    HUB = auto()
    HEADLIGHT = auto()
    TAILLIGHT = auto()
    SKIN = auto()
    HAIR = auto()
    JACKET = auto()
    TROUSERS = auto()
    TUBE = auto()
    SPOKES = auto()


class Surface(NamedTuple):
    """Polygons of one class and material; later ones cover earlier ones."""

    label: Label
    material: Material
    polygons: Points  # (n, k, 3)
    shade: float = 1.0  # share of the light that falls on it


class Thing(NamedTuple):
    """One object: its surfaces in drawing order, and the patch of ground that it shades."""

    depth_m: float
    surfaces: list[Surface]
    shadow: Points | None = None  # (k, 3)


@dataclass(frozen=True)
class Pose:
    """Where a thing stands; with heading 0 (radians) its length lies across the view."""

    x_m: float
    z_m: float
    heading: float = 0.0

    @cached_property
    def basis(self) -> Points:
        """Unit vectors (3, 3) along, up and aside, as rows."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])

    @cached_property
    def _foot(self) -> Points:
        return np.array([self.x_m, 0, self.z_m])

    def place(self, local: Points) -> Points:
        """Bring (..., 2) along/up or (..., 3) along/up/aside coordinates into the street."""
        placed: Points = local @ self.basis[: local.shape[-1]] + self._foot
        return placed

    def stand(
        self, label: Label, material: Material, *outlines: Points, shade: float = 1.0
    ) -> Surface:
        """Stand outlines (k, 2) of equally many corners up as one surface."""
        return Surface(label, material, self.place(np.array(outlines)), shade)

    def shadow(self, length_m: float, width_m: float) -> Points:
        """Outline an oval patch of shade (k, 3), a little away from the sun."""
        patch = np.zeros((len(CIRCLE), 3))
        patch[:, ::2] = CIRCLE * (0.5 * length_m, 0.5 * width_m)
        patch[:, 0] -= 0.25 * width_m
        return self.place(patch)


def oval(x: float, y: float, rx: float, ry: float) -> Points:
    """Return the outline (k, 2) of an oval."""
    outline: Points = CIRCLE * (rx, ry) + (x, y)
    return outline


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Points:
    """Return the outline (4, 2) of a rectangle."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def bar(x0: float, y0: float, x1: float, y1: float, width: float, taper: float = 1.0) -> Points:
    """Return the outline (4, 2) of a straight limb whose far end is `taper` times as wide."""
    scale = 0.5 * width / math.hypot(x1 - x0, y1 - y0)
    nx, ny = (y0 - y1) * scale, (x1 - x0) * scale
    ex, ey = nx * taper, ny * taper
    return np.array(
        [[x0 + nx, y0 + ny], [x1 + ex, y1 + ey], [x1 - ex, y1 - ey], [x0 - nx, y0 - ny]]
    )


def on_face(*outlines: Points) -> Points:
    """Find outlines (k, 2), whose unit square is a whole face, on that face.

    Returns:
        Weights (n, k, 4) of the corners of the face: `weights @ face` are polygons in space.
    """
    drawn = np.array(outlines)
    s, t = drawn[..., 0], drawn[..., 1]
    weights = np.empty((*s.shape, 4))
    weights[..., 2] = s * t
    weights[..., 1] = s - weights[..., 2]
    weights[..., 3] = t - weights[..., 2]
    weights[..., 0] = 1 - s - weights[..., 3]
    return weights
