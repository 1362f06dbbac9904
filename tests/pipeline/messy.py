"""Two folders as people have them: sequences, suffixes, mixed formats, and what systems leave."""

import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.drawn.world import draw
from examples.drawn.world.style import Style
from stages.prepare.datasets.drawn import DRAWN

SIZE_PX = (96, 160)
SEQUENCES = ("tour 1", unicodedata.normalize("NFD", "Straße süd"))
SUFFIXES = (".jpg", ".JPG", ".png")
PALETTE = np.array([*DRAWN.palette, *[(0, 0, 0)] * (256 - len(DRAWN))], np.uint8)


def write_messy(root: Path, *, images: int = 6) -> None:
    """Write `root/mine`, photos with `_L.png` labels of colours, and `root/theirs`, photos."""
    styles: tuple[tuple[str, Style], ...] = (("mine", "day"), ("theirs", "dusk"))
    for domain, style in styles:
        for index in range(images):
            _write(root / domain, index, style, labelled=domain == "mine")
    for domain in ("mine", "theirs"):
        photos = root / domain / "photos"
        (photos / SEQUENCES[0] / "Thumbs.db").write_bytes(b"x" * 99)
        (photos / "notes [draft].txt").write_text("sunny")
        (photos / "._0000.jpg").write_bytes(b"\0" * 99)
        thumbnails = photos / SEQUENCES[0] / "@eaDir" / "0000.jpg"
        thumbnails.mkdir(parents=True)
        Image.new("RGB", (40, 24)).save(thumbnails / "SYNOPHOTO_THUMB_M.jpg")


def _write(root: Path, index: int, style: Style, *, labelled: bool) -> None:
    pixels, ids = drawn_scene(index, style)
    sequence = SEQUENCES[index % 2]
    photo = root / "photos" / sequence / f"{index:04d}{SUFFIXES[index % 3]}"
    photo.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(photo)
    if labelled:
        name = f"{index:04d}_L.{'PNG' if index % 4 == 1 else 'png'}"
        label = root / "labels" / unicodedata.normalize("NFC", sequence) / name
        label.parent.mkdir(parents=True, exist_ok=True)
        _colored(ids, paletted=index % 3 == 0).save(label)


@cache
def drawn_scene(index: int, style: Style) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return draw(seed=1, index=index, style=style, size_px=SIZE_PX)


def _colored(ids: NDArray[np.uint8], *, paletted: bool) -> Image.Image:
    """Paint a label; as a palette PNG with its colours in an order of its own."""
    colors = PALETTE[ids]
    if not paletted:
        return Image.fromarray(colors)
    used = np.unique(ids)[::-1]
    image = Image.fromarray(np.searchsorted(-used.astype(int), -ids.astype(int)).astype(np.uint8))
    image.putpalette(PALETTE[used].ravel().tolist())
    return image
