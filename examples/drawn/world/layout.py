"""A drawn scene as a map of surfaces: what lies where, before any style."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from examples.drawn.world.paint import SUPERSAMPLING, at_pixel_centres, paint
from examples.drawn.world.scene import Scene, build_scene
from examples.drawn.world.shapes import Label
from examples.drawn.world.style import Look

_FRACTION_BITS = 4  # of the subpixel coordinates that OpenCV fills between


@dataclass(frozen=True)
class Layout:
    """A scene that has been rasterised; styles never change it.

    Attributes:
        scene: What there is to see.
        surfaces: Surface numbers at SUPERSAMPLING times the size; 0 is the sky, then in drawing
            order.
        shadow: Mask of the ground in shade (255), at that size.
    """

    scene: Scene
    surfaces: NDArray[np.int32]
    shadow: NDArray[np.uint8]

    @classmethod
    def of(cls, *, seed: int, index: int, size_px: tuple[int, int]) -> "Layout":
        """Lay out a scene, the same for the same seed and index, and fill it from far to near.

        Args:
            seed: Seed of the world, not negative.
            index: Number of the scene in it, not negative.
            size_px: Height and width.
        """
        scene = build_scene(np.random.default_rng([seed, index]))
        return cls(scene, *_rasterise(scene, size_px))

    @cached_property
    def label(self) -> NDArray[np.uint8]:
        """Class ids (H, W), in the order of `Label`."""
        labels = [Label.SKY, *(s.label for thing in self.scene.things for s in thing.surfaces)]
        return np.array(labels, dtype=np.uint8)[self._top]

    @cached_property
    def instance(self) -> NDArray[np.int32]:
        """Numbers (H, W) of the objects: 0 the sky, then in no order that means anything.

        All parts of one thing are one object, a car with its wheels and windows. What only stands
        together is apart: rider and bicycle, a sign and its pole, the road and each pavement.
        """
        objects: dict[tuple[int, Label], int] = {}
        numbers = [0]
        for number, thing in enumerate(self.scene.things):
            for surface in thing.surfaces:
                numbers.append(objects.setdefault((number, surface.label), len(objects) + 1))
        instance = np.array(numbers, dtype=np.int32)[self._top]
        pavement = instance == objects[0, Label.PAVEMENT]  # of the ground, the first thing
        patches = cv2.connectedComponents(pavement.astype(np.uint8), connectivity=8)[1]
        return np.where(pavement, len(objects) + patches, instance).astype(np.int32)

    @cached_property
    def part(self) -> NDArray[np.int32]:
        """Numbers (H, W) of the parts of objects: a wheel, the windows of a wall, leaves."""
        return self._top

    def paint(self, look: Look, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Paint the scene: RGB (H, W, 3)."""
        return paint(
            scene=self.scene, surfaces=self.surfaces, shadow=self.shadow, look=look, rng=rng
        )

    @cached_property
    def _top(self) -> NDArray[np.int32]:
        return at_pixel_centres(self.surfaces)


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
