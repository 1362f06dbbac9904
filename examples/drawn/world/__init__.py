"""Drawn street scenes with exact labels.

A scene is laid out in space from (seed, index) alone (`scene`), projected, and filled from
far to near into a map of surface numbers at three times the resolution (`layout`). The label
of a pixel is the class of the surface at its centre; the image averages the painted surfaces
(`paint`) in the look of a style (`looks`).
"""

import numpy as np
from numpy.typing import NDArray

from examples.drawn.world.layout import Layout
from examples.drawn.world.looks import look_of
from examples.drawn.world.style import Style


def draw(
    *, seed: int, index: int, style: Style, size_px: tuple[int, int], strength: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one street scene.

    Args:
        seed: Seed of the world, not negative.
        index: Number of the scene in it, not negative.
        style: Light, colours and textures; it never changes the labels.
        size_px: Height and width.
        strength: How far the style is from the day, 0 to 1; of no effect on `day` and `wide`.

    Returns:
        RGB image (H, W, 3) and class ids (H, W), in the order of `Label`.
    """
    layout = Layout.of(seed=seed, index=index, size_px=size_px)
    rng = np.random.default_rng([seed, index, *style.encode()])
    return layout.paint(look_of(style, strength, rng), rng), layout.label


def draw_views(
    *, seed: int, index: int, style: Style, size_px: tuple[int, int], views: int
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]:
    """Draw one street scene several times: the same objects in different colours and light.

    Args:
        seed: Seed of the world, not negative.
        index: Number of the scene in it, not negative.
        style: Of all views; each draws its own values, and `wide` its own look.
        size_px: Height and width.
        views: Their number.

    Returns:
        RGB images (views, H, W, 3), and the numbers (H, W) of the objects and of their parts.
    """
    layout = Layout.of(seed=seed, index=index, size_px=size_px)
    images = []
    for view in range(views):
        rng = np.random.default_rng([seed, index, view, *style.encode()])
        images.append(layout.paint(look_of(style, 1.0, rng), rng))
    return np.stack(images), layout.instance, layout.part
