"""Paint a drawn scene: colours and textures of its surfaces, then air, light and lens."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from examples.drawn.world.scene import FAR_M, Camera, Scene
from examples.drawn.world.shapes import EYE_M, Label, Material
from examples.drawn.world.style import RGB, Look, Texture

# H W pixels, S supersampling, N surfaces with the sky in front. Images are planes (3, H, W) of 0..1
# while they are painted: that is several times as fast as (H, W, 3).
Size = tuple[int, int]
Field = NDArray[np.float32]  # (H, W), or what broadcasts to it
Indices = NDArray[np.int32]

SUPERSAMPLING = 3  # odd: the centre of a pixel is then the centre of a sample
_WALL_M = 7.0  # aside: where textures take the facades to be


def at_pixel_centres(fine: NDArray[Any]) -> NDArray[Any]:
    """Take the sample (H, W) in the middle of each pixel of a map (S*H, S*W)."""
    middle = SUPERSAMPLING // 2
    return fine[middle::SUPERSAMPLING, middle::SUPERSAMPLING]


def paint(
    *,
    scene: Scene,
    surfaces: Indices,
    shadow: NDArray[np.uint8],
    look: Look,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Paint a scene that has been rasterised.

    Args:
        scene: The scene, for what its surfaces are.
        surfaces: Surface numbers (S*H, S*W); 0 is the sky.
        shadow: Mask (S*H, S*W) of ground in shade (255).
        look: Ranges of the style.
        rng: Source of this image's values.

    Returns:
        RGB image (H, W, 3).
    """
    size_px = (surfaces.shape[0] // SUPERSAMPLING, surfaces.shape[1] // SUPERSAMPLING)
    rows = [(s, i, t.depth_m) for i, t in enumerate(scene.things) for s in t.surfaces]
    # tables (N,)
    material = np.array([Material.SKY, *(s.material for s, _, _ in rows)], dtype=np.int32)
    thing = np.array([0, *(i for _, i, _ in rows)], dtype=np.int32)
    shade = np.array([1.0, *(s.shade for s, _, _ in rows)])
    depth_m = np.array([0.0, *(d for _, _, d in rows)], dtype=np.float32)
    ground = np.array([False, *(s.label in (Label.ROAD, Label.PAVEMENT) for s, _, _ in rows)])

    colour = _colours(look, rng, material, thing) * shade[:, None] ** rng.uniform(*look.relief)
    table = np.zeros((len(colour), 4), dtype=np.uint8)  # four bytes are looked up as one number
    table[:, :3] = np.clip(colour, 0, 255)
    fine = table.view(np.uint32)[:, 0][surfaces].view(np.uint8).reshape(*surfaces.shape, 4)
    image = np.ascontiguousarray(_shrink(fine, size_px).transpose(2, 0, 1)[:3])

    top = at_pixel_centres(surfaces)
    on_ground, of = ground[top], material[top]
    right, down = _rays(scene.camera, size_px)
    ahead_m = np.minimum(EYE_M / np.maximum(down, 1e-3), FAR_M)  # (H, 1) of the ground
    dark = rng.uniform(*look.shadow) * _shrink(shadow, size_px) * on_ground
    image *= _textures(look, rng, of, right, down, ahead_m) * (1 - dark)
    np.copyto(image, _sky(look, rng, down, size_px), where=top == 0)

    distance_m = np.where(on_ground, ahead_m, depth_m[top])
    haze = 1 - np.exp(-rng.uniform(*look.haze) / 1000 * distance_m)
    image += haze * (_rgb(look.palette[Material.SKY][1]) - image)
    glow = np.array([look.glow.get(m, 0.0) for m in Material], dtype=np.float32)[of]
    return photograph(look, rng, image, glow)


def photograph(
    look: Look, rng: np.random.Generator, image: Field, glow: Field
) -> NDArray[np.uint8]:
    """Light a painted image (3, H, W), in place, let materials glow (H, W), and expose it.

    Returns:
        RGB image (H, W, 3).
    """
    height, width = glow.shape
    shine = image * glow
    fall = np.linspace(0.5, -0.5, height, dtype=np.float32)[:, None]
    uneven = rng.uniform(*look.blotches) * _noise(rng, (height, width), 4)
    image *= (1 + rng.uniform(*look.falloff) * fall + uneven) * rng.uniform(*look.exposure)
    for plane, gain in zip(image, look.cast, strict=True):
        plane *= rng.uniform(*gain)
    mean, contrast = float(image.mean()), rng.uniform(*look.contrast)
    image *= contrast
    image += mean * (1 - contrast)
    if look.glow:
        image += 0.6 * shine
        image += _blur(shine, 0.03 * height)
    sigma_px = rng.uniform(*look.blur) / 100 * height
    if sigma_px > 0.2:  # below, the kernel is a single pixel
        image = _blur(image, sigma_px)
    image += rng.uniform(*look.noise) * rng.standard_normal(image.shape, dtype=np.float32)
    exposed = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(exposed.transpose(1, 2, 0))


def _colours(
    look: Look, rng: np.random.Generator, material: Indices, thing: Indices
) -> NDArray[np.float64]:
    """Pick the colours (N, 3) of all surfaces: one per thing and material."""
    pick = rng.random((int(thing.max()) + 1, len(Material)))
    tint = 1 + look.variety * rng.standard_normal((len(pick), 1, 1))  # brighter or darker
    tint = tint + 0.5 * look.variety * rng.standard_normal((len(pick), 1, 3))
    chosen = np.empty((len(pick), len(Material), 3))
    for m, colours in look.palette.items():
        chosen[:, m] = np.array(colours)[(pick[:, m] * len(colours)).astype(int)]
    picked: NDArray[np.float64] = (chosen * tint)[thing, material]
    return picked


def _textures(
    look: Look,
    rng: np.random.Generator,
    material: Indices,
    right: Field,
    down: Field,
    ahead_m: Field,
) -> Field:
    """Return the gain (H, W) that their textures give the materials (H, W)."""
    size_px = (material.shape[0], material.shape[1])
    wall_m = _WALL_M / np.maximum(np.abs(right), 1e-3)  # ahead, of a facade

    def courses() -> Field:
        joint = _fraction((EYE_M - wall_m * down) / 0.3) < 0.2
        return (0.5 - 2.5 * joint) * np.exp(-wall_m / 15)

    def slabs() -> Field:
        joint = (_fraction(ahead_m * right / 1.1) < 0.1) | (_fraction(ahead_m / 0.9) < 0.12)
        return (0.5 - 2.5 * joint) * np.exp(-ahead_m / 10)

    def wet() -> Field:  # streaks along the road
        across = np.asarray(2 * ahead_m * right + 32, dtype=np.float32)
        streaks = rng.standard_normal((1, 64), dtype=np.float32)
        field: Field = cv2.remap(
            streaks, across, 0 * across, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )
        return field

    kinds: dict[Texture, Callable[[], Field]] = {
        "grain": lambda: rng.standard_normal(size_px, dtype=np.float32),
        "mottle": lambda: _noise(rng, size_px, 16),
        "leaf": lambda: _noise(rng, size_px, 48),
        "courses": courses,
        "slabs": slabs,
        "wet": wet,
    }
    gain = np.ones(size_px, dtype=np.float32)
    for kind, texture in kinds.items():
        strengths = [look.textures.get(m, {}).get(kind, 0.0) for m in Material]
        if any(strengths):
            gain += np.array(strengths, dtype=np.float32)[material] * texture()
    return gain


def _sky(look: Look, rng: np.random.Generator, down: Field, size_px: Size) -> Field:
    """Paint a sky (3, H, W) from zenith to horizon, with clouds."""
    zenith, horizon, cloud = (_rgb(colour) for colour in look.palette[Material.SKY])
    low = np.clip(1 + down / 0.5, 0, 1)  # (H, 1)
    clear = zenith + (horizon - zenith) * low
    puffs = (_noise(rng, size_px, cells) / cells for cells in (6, 14, 40))
    cover = np.clip(6 * sum(puffs) + 2 * rng.uniform(*look.clouds) - 1.4, 0, 1)
    sky: Field = clear + (cloud - clear) * cover
    return sky


def _rays(camera: Camera, size_px: Size) -> tuple[Field, Field]:
    """Return how far right (1, W) and down (H, 1) the ray of each pixel goes per metre ahead."""
    height, width = size_px
    x = (np.arange(width) + 0.5 - width / 2) / height
    y = (np.arange(height) + 0.5) / height
    right = ((-x if camera.mirrored else x) - camera.vanishing) / camera.focal
    down = (y - camera.horizon) / camera.focal
    return right.astype(np.float32)[None], down.astype(np.float32)[:, None]


def _noise(rng: np.random.Generator, size_px: Size, cells: int) -> Field:
    """Draw smooth noise (H, W) of about unit spread, with so many cells from top to bottom."""
    height, width = size_px
    coarse = rng.standard_normal((cells, max(2, cells * width // height)), dtype=np.float32)
    smooth: Field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return smooth


def _shrink(fine: NDArray[np.uint8], size_px: Size) -> Field:
    """Average samples (S*H, S*W, ...) over pixels, to 0..1."""
    height, width = size_px
    averaged = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    unit: Field = averaged.astype(np.float32) / 255
    return unit


def _blur(image: Field, sigma_px: float) -> Field:
    return np.stack([cv2.GaussianBlur(plane, (0, 0), sigma_px) for plane in image])


def _fraction(x: NDArray[Any]) -> NDArray[Any]:
    fraction: NDArray[Any] = x - np.floor(x)  # several times as fast as x % 1
    return fraction


def _rgb(colour: RGB) -> Field:
    return np.array(colour, dtype=np.float32)[:, None, None] / np.float32(255)  # (3, 1, 1)
