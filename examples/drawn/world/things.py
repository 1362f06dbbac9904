"""The things that stand in a drawn street, built from flat polygons."""

import math

import numpy as np

from examples.drawn.world.shapes import (
    CIRCLE,
    EYE_M,
    Label,
    Material,
    Points,
    Pose,
    Surface,
    Thing,
    bar,
    on_face,
    oval,
    rectangle,
)

_UP = np.array([0.0, 1.0, 0.0])
_EYE = EYE_M * _UP
_SUN = np.array([0.62, 0.66, -0.42])  # fixed, as scenes are mirrored at random


def _wall(rng: np.random.Generator, face: Points, shade: float, first_m: float) -> list[Surface]:
    """Raise a wall (4, 3) with rows of windows from `first_m` upwards."""
    surfaces = [Surface(Label.BUILDING, Material.WALL, face[None], shade)]
    length_m, height_m = math.dist(face[0], face[1]), float(face[3, 1])
    floors, columns = int((height_m - first_m) / 2.7), int(length_m / rng.uniform(1.7, 2.8))
    sills = np.empty((floors, columns, 1, 2))  # their middles, in metres
    sills[..., 0] = (np.arange(columns)[:, None] + 0.5) * (length_m / columns)
    sills[..., 1] = np.arange(floors)[:, None, None] * ((height_m - first_m) / floors)
    sills[..., 1] += first_m + 0.8
    half, tall, rim = rng.uniform(0.36, 0.6), rng.uniform(1.2, 1.6), 0.1
    size_m = np.array([length_m, height_m])
    pane = rectangle(-half, 0, half, tall)
    frame = rectangle(-half - rim, -rim, half + rim, tall + rim)
    panes, frames = (
        on_face(*((sills + box) / size_m).reshape(-1, 4, 2)) @ face for box in (pane, frame)
    )
    lit = rng.random(len(panes)) < 0.35
    for material, polygons in (
        (Material.FRAME, frames),
        (Material.WINDOW, panes[~lit]),
        (Material.LIT_WINDOW, panes[lit]),
    ):
        surfaces.append(Surface(Label.BUILDING, material, polygons, shade))
    return surfaces


def building(
    rng: np.random.Generator,
    near: Points,
    far: Points,
    outward: Points,
    height_m: float,
    roof_m: float,
) -> Thing:
    """Build a house along the street: the end wall that faces us, roof, facade, door or shop.

    Args:
        rng: Source of windows and details.
        near: Nearer corner (3,) of the facade on the ground.
        far: Farther corner (3,).
        outward: Vector (3,) from the facade to the back of the house.
        height_m: Height of the eaves.
        roof_m: Height of the ridge above the eaves; 0 is a flat roof, with a shop below.
    """
    sunny = 0.86 - 0.14 * float(np.sign(outward[0]))  # one side of the street lies in the sun
    first_m = 0.0 if roof_m else 3.2
    rise, back = height_m * _UP, near + outward
    surfaces = _wall(rng, np.array([near, back, back + rise, near + rise]), 0.78, first_m)
    if roof_m:
        ridge = near + (height_m + roof_m) * _UP + outward / 2
        gable = np.array([[near + rise, back + rise, ridge]])
        surfaces.append(Surface(Label.BUILDING, Material.WALL, gable, 0.78))
        slope = 2 * roof_m / abs(outward[0])
        if height_m - slope * abs(near[0]) < EYE_M:  # our eye is above its plane
            roof = np.array([[near + rise, far + rise, ridge + far - near, ridge]])
            surfaces.append(Surface(Label.BUILDING, Material.ROOF, roof, sunny))
    facade = np.array([near, far, far + rise, near + rise])
    surfaces += _wall(rng, facade, sunny, first_m)
    length_m, door = math.dist(near, far), rng.uniform(0.1, 0.8)
    trim = [rectangle(door, 0, door + 1.1 / length_m, 2.2 / height_m)]
    if not roof_m:
        trim = [rectangle(0, 2.6 / height_m, 1, 3.2 / height_m), rectangle(0, 0.96, 1, 1)]
        edge = np.linspace(0, 1, 2 + int(length_m / 3.5))
        pane = rectangle(0.04, 0.5 / height_m, 0.96, 2.5 / height_m)
        shop = pane * (edge[1], 1) + np.stack([edge[:-1], 0 * edge[:-1]], axis=-1)[:, None]
        surfaces.append(Surface(Label.BUILDING, Material.WINDOW, on_face(*shop) @ facade, sunny))
    surfaces.append(Surface(Label.BUILDING, Material.TRIM, on_face(*trim) @ facade, sunny))
    return Thing(float(far[2]), surfaces)


def tree(rng: np.random.Generator, pose: Pose, height_m: float) -> Thing:
    """Grow a tree: a trunk, and clumps of leaves from the dark ones below to the bright on top."""
    width, middle, tall = height_m * rng.uniform(0.24, 0.4), 0.66 * height_m, 0.32 * height_m
    trunk = bar(0, 0, 0, middle, 0.07 * height_m, 0.5)
    surfaces = [pose.stand(Label.TREE, Material.BARK, trunk)]
    clumps = int(rng.integers(9, 14)) if pose.z_m < 40 else 5
    angle, reach = rng.uniform(0, 2 * np.pi, clumps), 0.75 * np.sqrt(rng.random(clumps))
    centre = np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=-1)[:, None]  # (n, 1, 2)
    size = rng.uniform(0.38, 0.55, (clumps, 1, 1)) * (1 - 0.3 * np.maximum(0, centre[..., 1:]))
    rough = size * rng.uniform(0.85, 1.15, (clumps, len(CIRCLE), 1))
    polygons = pose.place((CIRCLE * rough + centre) * (width, tall) + (0, middle))
    light = 0.84 + 0.22 * centre[:, 0] @ (0.4, 1.0)
    for i in np.argsort(centre[:, 0] @ (-0.3, 1.0)):
        clump = polygons[i : i + 1]
        surfaces.append(Surface(Label.TREE, Material.LEAF, clump, float(light[i])))
    return Thing(pose.z_m, surfaces, pose.shadow(2 * width, 1.4 * width))


def lamp(rng: np.random.Generator, pose: Pose, side: float) -> Thing:
    """Put up a street lamp whose arm reaches to one side (-1 or 1)."""
    height, reach = rng.uniform(5.0, 8.0), side * rng.uniform(0.8, 1.8)
    shaft = bar(0, 0, 0, height, 0.26, 0.6)
    arm = bar(-0.06 * side, height, reach, height + 0.25, 0.14)
    head = rectangle(reach - 0.4, height + 0.1, reach + 0.4, height + 0.32)
    pole = pose.stand(Label.POLE, Material.METAL, shaft, arm)
    return Thing(pose.z_m, [pole, pose.stand(Label.POLE, Material.LAMP, head)])


_PLATES = (
    CIRCLE,
    np.array([[-1.1, -0.75], [1.1, -0.75], [0, 1.15]]),
    rectangle(-0.9, -0.9, 0.9, 0.9),
    rectangle(-1.6, -0.7, 1.6, 0.7),
)


def sign(rng: np.random.Generator, pose: Pose) -> Thing:
    """Put up a pole with a disc, triangle, square or plate, or with a traffic light."""
    height, size = rng.uniform(2.4, 3.2), rng.uniform(0.32, 0.46)
    surfaces = [pose.stand(Label.POLE, Material.METAL, bar(0, 0, 0, height, 0.16))]
    kind = int(rng.integers(len(_PLATES) + 1))
    if kind == len(_PLATES):
        box = rectangle(-0.22, height - 0.5, 0.22, height + 0.7)
        lens = oval(0, height - 0.25 + 0.35 * float(rng.integers(3)), 0.15, 0.15)
        parts = [(Material.RUBBER, box), (Material.SIGNAL, lens)]
    else:
        plate, centre, angle = size * _PLATES[kind], np.array([0, height]), rng.uniform(0, np.pi)
        x, y = 0.4 * size * np.cos(angle), 0.4 * size * np.sin(angle)
        parts = [
            (Material.SIGN_RIM, plate + centre),
            (Material.SIGN_FACE, 0.76 * plate + centre),
            (Material.RUBBER, bar(-x, height - y, x, height + y, 0.2 * size)),
        ]
    surfaces += [pose.stand(Label.SIGN, material, outline) for material, outline in parts]
    return Thing(pose.z_m, surfaces)


_PLANKS = on_face(*(rectangle(i / 10, 0, (i + 1) / 10, 1) for i in range(10)))
_RAIL = on_face(rectangle(0, 0.62, 1, 0.8))


def fence(near: Points, far: Points, height_m: float) -> Thing:
    """Put up a panel of planks between two points (3,) on the ground."""
    rise = height_m * _UP
    face = np.array([near, far, far + rise, near + rise])
    parts = ((_PLANKS[::2], 0.95), (_PLANKS[1::2], 0.78), (_RAIL, 0.65))
    surfaces = [
        Surface(Label.FENCE, Material.FENCE, weights @ face, shade) for weights, shade in parts
    ]
    return Thing(float(max(near[2], far[2])), surfaces)


# length, half width, waist and roof in metres; then the ends of the cabin as shares of the length:
# back and front at the waist, back and front at the roof
_CARS = (
    (4.4, 0.88, 0.90, 1.45, -0.38, 0.22, -0.25, 0.06),
    (3.8, 0.85, 0.92, 1.52, -0.49, 0.24, -0.40, 0.08),
    (4.7, 0.92, 1.00, 1.75, -0.49, 0.24, -0.45, 0.10),
    (5.2, 0.98, 1.15, 2.20, -0.50, 0.40, -0.49, 0.28),
)
_LIGHTS = on_face(rectangle(0.04, 0.5, 0.26, 0.82), rectangle(0.74, 0.5, 0.96, 0.82))
_NUMBER = on_face(rectangle(0.36, 0.22, 0.64, 0.44))
_SCREEN = on_face(rectangle(0.08, 0.12, 0.92, 0.9))
_SIDE_WINDOWS = on_face(rectangle(0.06, 0.14, 0.48, 0.88), rectangle(0.53, 0.14, 0.95, 0.88))
# the back, front, two sides and lid of a block with corners 0..3 below and 4..7 above
_FACES = np.array([[0, 3, 7, 4], [1, 2, 6, 5], [0, 1, 5, 4], [3, 2, 6, 7], [4, 5, 6, 7]])
_NORMALS = np.array([[-1.0, 0, 0], [1, 0, 0], [0, 0, -1], [0, 0, 1], [0, 1, 0]])


def _block(pose: Pose, bottom: tuple[float, ...], top: tuple[float, ...]) -> dict[int, Surface]:
    """Return the painted faces of a block that we see, by their place in _FACES.

    `bottom` and `top` are (back, front, height, half width).
    """
    corners = np.array(
        [
            [x, y, z]
            for x0, x1, y, w in (bottom, top)
            for x, z in ((x0, -w), (x1, -w), (x1, w), (x0, w))
        ]
    )
    faces, normals = pose.place(corners)[_FACES], _NORMALS @ pose.basis
    seen = (normals * (_EYE - faces[:, 0])).sum(axis=1) > 0
    light = 0.80 + 0.28 * normals @ _SUN
    return {
        int(i): Surface(Label.CAR, Material.PAINT, faces[i : i + 1], float(light[i]))
        for i in np.flatnonzero(seen)
    }


def car(rng: np.random.Generator, pose: Pose) -> Thing:
    """Put a saloon, hatchback, estate or van on the road; its front points along the heading."""
    length, wide, waist, roof, *ends = _CARS[rng.integers(len(_CARS))]
    half, (b0, b1, t0, t1) = length / 2, (length * end for end in ends)
    inner = wide - 0.1
    chassis = _block(pose, (-0.9 * half, 0.9 * half, 0.1, inner), (-half, half, 0.4, inner))
    body = _block(pose, (-half, half, 0.28, wide), (-0.97 * half, 0.96 * half, waist, 0.96 * wide))
    cabin = _block(pose, (b0, b1, waist, 0.94 * wide), (t0, t1, roof, 0.78 * wide))
    y, rx, ry = 0.05 / (waist - 0.28), 0.33 / length, 0.33 / (waist - 0.28)
    wheels, hubs = (
        on_face(oval(0.19, y, k * rx, k * ry), oval(0.81, y, k * rx, k * ry)) for k in (1, 0.55)
    )
    details = (
        (cabin, (0, 1), Material.GLASS, _SCREEN),
        (cabin, (2, 3), Material.GLASS, _SIDE_WINDOWS),
        (body, (2, 3), Material.RUBBER, wheels),
        (body, (2, 3), Material.HUB, hubs),
        (body, (0,), Material.TAILLIGHT, _LIGHTS),
        (body, (1,), Material.HEADLIGHT, _LIGHTS),
        (body, (0, 1), Material.FRAME, _NUMBER),
    )
    surfaces = [face._replace(material=Material.RUBBER) for face in chassis.values()]
    surfaces += [*body.values(), *cabin.values()]
    for block, faces, material, weights in details:
        for face in (block[i] for i in faces if i in block):
            polygons = weights @ face.polygons[0]
            surfaces.append(Surface(Label.CAR, material, polygons, face.shade))
    return Thing(pose.z_m, surfaces, pose.shadow(1.25 * length, 2.7 * wide))


def person(rng: np.random.Generator, pose: Pose) -> Thing:
    """Let somebody walk by."""
    tall, coat = rng.uniform(0.85, 1.1), rng.uniform(0.55, 0.95)  # coat: where the jacket ends
    stride, swing = rng.uniform(0.05, 0.3), 0.2 + rng.uniform(0.05, 0.25)
    torso = np.array([[-0.2, coat], [0.2, coat], [0.26, 1.46], [-0.26, 1.46]])
    both = (-1, 1)
    parts = (
        (Material.RUBBER, [rectangle(s * stride - 0.1, 0, s * stride + 0.14, 0.09) for s in both]),
        (Material.TROUSERS, [bar(0.07 * s, 0.95, s * stride, 0.06, 0.24, 0.7) for s in both]),
        (Material.JACKET, [torso, *(bar(0.2 * s, 1.4, swing * s, 0.85, 0.15, 0.7) for s in both)]),
        (Material.SKIN, [oval(0, 1.63, 0.12, 0.15)]),
        (Material.HAIR, [oval(-0.02, 1.69, 0.13, 0.11)]),
    )
    surfaces = [
        pose.stand(Label.PERSON, material, *(tall * outline for outline in outlines))
        for material, outlines in parts
    ]
    return Thing(pose.z_m, surfaces, pose.shadow(0.9, 0.7))


_BICYCLE = (
    (Material.RUBBER, [oval(-0.54, 0.36, 0.37, 0.37), oval(0.54, 0.36, 0.37, 0.37)]),
    (Material.SPOKES, [oval(-0.54, 0.36, 0.29, 0.29), oval(0.54, 0.36, 0.29, 0.29)]),
    (
        Material.TUBE,
        [
            bar(-0.05, 0.34, -0.22, 0.98, 0.08),
            bar(-0.05, 0.34, 0.32, 0.78, 0.08),
            bar(-0.18, 0.80, 0.32, 0.80, 0.08),
            bar(-0.54, 0.36, -0.05, 0.34, 0.08),
            bar(-0.54, 0.36, -0.18, 0.80, 0.08),
            bar(0.54, 0.36, 0.38, 1.05, 0.08),
        ],
    ),
    (Material.RUBBER, [bar(-0.36, 1.0, -0.1, 1.0, 0.1), bar(0.3, 1.08, 0.48, 1.08, 0.1)]),
)
_RIDER = (
    (Material.TROUSERS, [bar(-0.22, 0.98, 0.12, 0.68, 0.22, 0.7), bar(0.12, 0.68, 0, 0.2, 0.15)]),
    (Material.JACKET, [bar(-0.22, 0.98, 0.12, 1.52, 0.34), bar(0.12, 1.45, 0.38, 1.05, 0.14)]),
    (Material.SKIN, [oval(0.2, 1.68, 0.12, 0.15)]),
    (Material.HAIR, [oval(0.17, 1.76, 0.14, 0.1)]),
)


def bicycle(rng: np.random.Generator, pose: Pose) -> Thing:
    """Stand a bicycle up, half of the time with its rider."""
    surfaces = [pose.stand(Label.BICYCLE, material, *parts) for material, parts in _BICYCLE]
    if rng.random() < 0.5:
        surfaces += [pose.stand(Label.PERSON, material, *parts) for material, parts in _RIDER]
    return Thing(pose.z_m, surfaces, pose.shadow(1.6, 0.6))
