"""Folders of drawn images and labels: what a dataset of kind `drawn` has under its root."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.drawn import world
from stages.fields import Split
from stages.prepare.datasets import drawn
from stages.prepare.datasets.dataset import Item, Progress
from store.atomic import write_bytes

# Scenes of val are counted from here, so that a longer train split never runs into them.
_FIRST_VAL: Final = 1_000_000


def fill(config: drawn.Config, *, progress: Progress) -> list[Item]:
    """List the images of a world, drawing those that are not there yet.

    Each style and strength, seed and size has its own folder. All of it is drawn anew when the code
    that draws has changed since; the stamp that tells is written last, so an interrupted redraw
    starts over.
    """
    root = config.folder
    style = config.style if config.strength == 1 else f"{config.style}{config.strength}"
    folder = f"{style}-seed{config.seed}-{config.width_px}x{config.height_px}"
    scenes = list(_scenes(config, folder))
    stamp = root / folder / "drawn.json"
    code = json.dumps({"code": _code_digest()})
    current = stamp.is_file() and stamp.read_text("utf-8", errors="replace") == code
    missing = [
        (item, index)
        for item, index in scenes
        if not (current and all((root / str(p)).is_file() for p in (item.image, item.label)))
    ]
    _draw_all(config, root, missing, progress)
    if not current:
        write_bytes(stamp, code.encode())
    return [item for item, _ in scenes]


def _code_digest() -> str:
    """Hash the modules that draw."""
    digest = sha256()
    for module in sorted(Path(world.__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()


def _scenes(config: drawn.Config, folder: str) -> Iterator[tuple[Item, int]]:
    splits: tuple[tuple[Split, int, int], ...] = (
        ("train", config.train, 0),
        ("val", config.val, _FIRST_VAL),
    )
    for split, count, first in splits:
        for i in range(count):
            name = f"{i:05d}.png"
            yield (
                Item(split, f"{folder}/{split}/images/{name}", f"{folder}/{split}/labels/{name}"),
                first + i,
            )


def _draw_all(
    config: drawn.Config, root: Path, missing: list[tuple[Item, int]], progress: Progress
) -> None:
    def draw(scene: tuple[Item, int]) -> None:
        item, index = scene
        image, label = world.draw(
            seed=config.seed,
            index=index,
            style=config.style,
            strength=config.strength,
            size_px=(config.height_px, config.width_px),
        )
        write_bytes(root / item.image, _png(image))
        write_bytes(root / str(item.label), _png(label))

    pool = ThreadPoolExecutor()
    try:
        for done, _ in enumerate(pool.map(draw, missing), start=1):
            progress(done, len(missing), f"drawing the {config.style} world")
    finally:
        pool.shutdown(cancel_futures=True)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
