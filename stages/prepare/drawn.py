"""Drawn street scenes with exact labels.

A scene is laid out in space from (seed, index) alone (`drawn_scene`), projected, and filled from
far to near into a map of surface numbers at three times the resolution. The label of a pixel is the
class of the surface at its centre; the image averages the painted surfaces (`drawn_paint`).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.prepare.drawn_paint import SUPERSAMPLING, at_pixel_centres, paint
from stages.prepare.drawn_scene import Scene, build_scene
from stages.prepare.drawn_shapes import Label
from stages.prepare.drawn_style import LOOKS, Style

_FRACTION_BITS = 4  # of the subpixel coordinates that OpenCV fills between


def draw(
    *, seed: int, index: int, style: Style, size_px: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one street scene.

    Args:
        seed: Seed of the world, not negative.
        index: Number of the scene in it, not negative.
        style: Light, colours and textures; it never changes the labels.
        size_px: Height and width.

    Returns:
        RGB image (H, W, 3) and class ids (H, W), in the order of `Label`.
    """
    scene = build_scene(np.random.default_rng([seed, index]))
    surfaces, shadow = _rasterise(scene, size_px)
    labels = [Label.SKY, *(s.label for thing in scene.things for s in thing.surfaces)]
    label = np.array(labels, dtype=np.uint8)[at_pixel_centres(surfaces)]
    rng = np.random.default_rng([seed, index, *style.encode()])
    image = paint(scene=scene, surfaces=surfaces, shadow=shadow, look=LOOKS[style], rng=rng)
    return image, label


def _rasterise(
    scene: Scene, size_px: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Fill all polygons at SUPERSAMPLING times the size.

    Returns:
        Surface numbers (0 the sky, then in drawing order), and a mask of the ground in shade (255).
    """
    height_px, width_px = (SUPERSAMPLING * side for side in size_px)
    surfaces = np.zeros((height_px, width_px), dtype=np.int32)
    shadow = np.zeros((height_px, width_px), dtype=np.uint8)
    drawn = [s.polygons for thing in scene.things for s in thing.surfaces]
    cast = [thing.shadow[None] for thing in scene.things if thing.shadow is not None]
    points = np.concatenate([polygons.reshape(-1, 3) for polygons in (*drawn, *cast)])
    image = scene.camera.project(points, width_px / height_px) * height_px - 0.5
    corners = np.rint(image * 2**_FRACTION_BITS).astype(np.int32)
    start = 0
    for number, polygons in enumerate((*drawn, *cast), start=1):
        n, k = polygons.shape[:2]
        canvas, value = (surfaces, number) if number <= len(drawn) else (shadow, 255)
        for polygon in corners[start : start + n * k].reshape(n, k, 2):
            cv2.fillConvexPoly(canvas, polygon, value, cv2.LINE_8, _FRACTION_BITS)
        start += n * k
    return surfaces, shadow
