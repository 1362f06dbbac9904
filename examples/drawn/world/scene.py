"""Lay out a drawn street: what stands where, and the camera that looks along it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from examples.drawn.world.shapes import (
    EYE_M,
    Label,
    Material,
    Points,
    Pose,
    Surface,
    Thing,
    oval,
    rectangle,
)
from examples.drawn.world.things import bicycle, building, car, fence, lamp, person, sign, tree

FAR_M = 300.0
_END_M = 75.0  # where the street furniture and the rows of houses end


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole at eye height; lengths in image heights."""

    focal: float
    horizon: float  # from the top
    vanishing: float  # right of the middle
    mirrored: bool

    def project(self, points: Points, aspect: float) -> Points:
        """Return (n, 2) image points (right, down) in image heights from the top left corner."""
        scale = self.focal / np.maximum(points[:, 2], 0.5)
        x = self.vanishing + scale * points[:, 0]
        side = -1 if self.mirrored else 1
        return np.stack(
            [aspect / 2 + side * x, self.horizon + scale * (EYE_M - points[:, 1])], axis=-1
        )


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything there is to see, from far to near; the first thing is the ground."""

    camera: Camera
    things: list[Thing]


@dataclass(frozen=True, slots=True)
class _Street:
    left_m: float  # kerbs, right of the eye
    right_m: float
    pavement_m: float
    bend: float  # metres aside per square metre ahead
    town: float  # 0 suburb .. 1 town

    def point(self, x_m: float, z_m: float) -> Points:
        return np.array([x_m + self.bend * z_m**2, 0, z_m])

    def pose(self, x_m: float, z_m: float, heading: float = 0.0) -> Pose:
        return Pose(x_m + self.bend * z_m**2, z_m, heading)

    def strip(self, x0_m: float, x1_m: float, z: Points) -> Points:
        """Cover the ground between two lines along the street by quads (n, 4, 3), far to near."""
        shift, near, far = self.bend * z**2, slice(None, -1), slice(1, None)
        lines = np.zeros((len(z) - 1, 4, 3))
        for corner, (x_m, end) in enumerate(((x0_m, near), (x1_m, near), (x1_m, far), (x0_m, far))):
            lines[:, corner, 0] = x_m + shift[end]
            lines[:, corner, 2] = z[end]
        return lines[::-1]

    def kerb(self, side: int) -> float:
        return self.left_m if side < 0 else self.right_m


def build_scene(rng: np.random.Generator) -> Scene:
    """Draw a street at random; the same generator state gives the same street."""
    lane = rng.uniform(2.9, 4.2)
    street = _Street(
        left_m=-lane * rng.uniform(0.5, 0.7),
        right_m=lane * rng.uniform(1.3, 1.6),
        pavement_m=rng.uniform(1.8, 4.0),
        bend=rng.uniform(-1, 1) * 2e-3,
        town=rng.random(),
    )
    camera = Camera(
        focal=rng.uniform(0.95, 1.3),
        horizon=rng.uniform(0.42, 0.54),
        vanishing=rng.uniform(-0.3, 0.3),
        mirrored=bool(rng.random() < 0.5),
    )
    things = [*_skyline(rng)]
    for side in (-1, 1):
        things += _row(rng, street, side)
        things += _furniture(rng, street, side)
    things += _traffic(rng, street, lane)
    things += _people(rng, street)
    things.sort(key=lambda thing: -thing.depth_m)
    return Scene(camera, [_ground(rng, street), *things])


def _ground(rng: np.random.Generator, street: _Street) -> Thing:
    z = np.geomspace(1.0, FAR_M, 28)
    left, right = street.left_m, street.right_m
    parts = [
        (Label.PAVEMENT, Material.PAVING, street.strip(-FAR_M, FAR_M, np.array([1.0, FAR_M]))),
        (Label.PAVEMENT, Material.KERB, street.strip(left - 0.3, right + 0.3, z)),
        (Label.ROAD, Material.ASPHALT, street.strip(left, right, z)),
    ]
    middle = (left + right) / 2 + rng.uniform(-0.3, 0.3)
    pitch, share = rng.uniform(4, 8), rng.uniform(0.35, 0.6)
    for start in np.arange(rng.uniform(1, 4), _END_M, pitch):
        dash = street.strip(middle - 0.09, middle + 0.09, start + np.array([0, share * pitch]))
        parts.append((Label.ROAD, Material.MARKING, dash))
    if rng.random() < 0.5:
        for x in (left + 0.35, right - 0.35):
            parts.append((Label.ROAD, Material.MARKING, street.strip(x - 0.06, x + 0.06, z[:18])))
    if rng.random() < 0.35:
        start = rng.uniform(5, 25)
        for x in np.arange(left + 0.3, right - 0.5, 1.0):
            stripe = street.strip(x, x + 0.5, start + np.array([0, 3.0]))
            parts.append((Label.ROAD, Material.MARKING, stripe))
    return Thing(FAR_M, [Surface(*part) for part in parts])


def _skyline(rng: np.random.Generator) -> Iterator[Thing]:
    """Close the view with far houses and trees."""
    for x in np.arange(-160.0, 160.0, 16.0):
        z, height = rng.uniform(85, 140), rng.uniform(5, 14)
        pose = Pose(x, z)
        if rng.random() < 0.5:
            wide = rng.uniform(7, 12)
            outline = rectangle(-wide, 0, wide, height)
            yield Thing(z, [pose.stand(Label.BUILDING, Material.WALL, outline, shade=0.85)])
        else:
            outline = oval(0, 0.4 * height, rng.uniform(7, 13), 0.6 * height)
            yield Thing(z, [pose.stand(Label.TREE, Material.LEAF, outline, shade=0.8)])


def _row(rng: np.random.Generator, street: _Street, side: int) -> Iterator[Thing]:
    """Line one side of the street with houses, gardens and fences."""
    line = street.kerb(side) + side * street.pavement_m
    garden_m = 0.0 if rng.random() < street.town else rng.uniform(2.0, 5.0)
    flat = rng.random() < street.town
    z = rng.uniform(1.0, 4.0)
    while z < _END_M:
        end = z + rng.uniform(6, 15)
        house = rng.random() < 0.82
        if house:
            height, roof = (
                (rng.uniform(7, 15), 0.0) if flat else (rng.uniform(4.5, 7), rng.uniform(2, 4))
            )
            x = line + side * garden_m
            near, far = street.point(x, z), street.point(x, end)
            yield building(rng, near, far, np.array([side * 9.0, 0, 0]), height, roof)
        if not house or (garden_m and rng.random() < 0.6):
            height = rng.uniform(0.9, 1.7)
            posts = np.linspace(z, end, int((end - z) / 3) + 1)
            for near_m, far_m in pairwise(posts):
                yield fence(street.point(line, near_m), street.point(line, far_m), height)
        if z > 6 and (not house or (garden_m and rng.random() < 0.3)):
            x = line + side * rng.uniform(1.0, 2.0)
            yield tree(rng, street.pose(x, rng.uniform(z, end)), rng.uniform(4, 9))
        z = end + (0.0 if flat else rng.uniform(0.5, 3.0))


def _furniture(rng: np.random.Generator, street: _Street, side: int) -> Iterator[Thing]:
    """Set trees, lamps, signs and railings along one kerb."""
    x = street.kerb(side) + side * 0.7
    if rng.random() < 0.65:
        height = rng.uniform(4.5, 8)
        for z in np.arange(rng.uniform(8, 16), _END_M, rng.uniform(9, 18)):
            yield tree(rng, street.pose(x + side * 0.5, z), height * rng.uniform(0.8, 1.1))
    for z in np.arange(rng.uniform(7, 18), _END_M, rng.uniform(14, 26)):
        yield lamp(rng, street.pose(x, z), -side)
    for z in _spread(rng, int(rng.integers(1, 4)), abs(x), 40):
        yield sign(rng, street.pose(x, z))
    if rng.random() < 0.3:
        start, height = rng.uniform(6, 14), rng.uniform(0.8, 1.1)
        for z in np.arange(start, start + rng.uniform(5, 15), 2.0):
            yield fence(
                street.point(x - side * 0.3, z), street.point(x - side * 0.3, z + 2), height
            )


def _traffic(rng: np.random.Generator, street: _Street, lane_m: float) -> Iterator[Thing]:
    """Send cars along both lanes, park some at the kerbs, and let one turn now and then."""
    ahead = np.pi / 2
    rows = (
        (0.0, ahead, 9.0, 0.45),  # x, heading, nearest, how busy
        (lane_m, -ahead, 7.0, 0.6),
        (street.left_m + 0.3, ahead, 7.0, 0.35),
        (street.right_m - 0.3, -ahead, 7.0, 0.5),
    )
    for x, heading, nearest, busy in rows:
        z = nearest + rng.uniform(0, 14)
        while z < _END_M and rng.random() < busy + 0.25:
            turn = rng.normal(0, 0.06) - 2 * street.bend * z
            yield car(rng, street.pose(x + rng.normal(0, 0.15), z, heading + turn))
            z += rng.uniform(6.5, 20)
    if rng.random() < 0.35:
        turning = rng.uniform(-0.5, 0.5) + (np.pi if rng.random() < 0.5 else 0)
        yield car(rng, street.pose(rng.uniform(-2, lane_m), rng.uniform(9, 20), turning))


def _people(rng: np.random.Generator, street: _Street) -> Iterator[Thing]:
    """Let people walk and cycle, mostly off the road."""
    kinds: tuple[tuple[Callable[[np.random.Generator, Pose], Thing], int, int, float], ...] = (
        (person, 4, 10, 0.25),
        (bicycle, 1, 4, 0.5),
    )  # kind, fewest, most, share on the road
    for make, fewest, most, on_road in kinds:
        for _ in range(rng.integers(fewest, most)):
            side = 1 if rng.random() < 0.5 else -1
            if rng.random() < on_road:
                x = street.kerb(side) - side * rng.uniform(0.4, 1.5)
            else:
                x = street.kerb(side) + side * rng.uniform(0.4, 0.9 * street.pavement_m)
            (z,) = _spread(rng, 1, abs(x), 30)
            yield make(
                rng, street.pose(x, z, rng.uniform(-0.6, 0.6) + np.pi * (rng.random() < 0.5))
            )


def _spread(rng: np.random.Generator, count: int, aside_m: float, far_m: float) -> Points:
    """Draw distances that spread evenly over the image where things `aside_m` are in view."""
    near_m = max(5.0, 1.4 * aside_m)
    return 1 / rng.uniform(1 / far_m, 1 / near_m, count)
