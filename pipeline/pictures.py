"""Features for the eye: an image beside its tokens, their three principal components as colours.

Legend: N tokens, C channels, h w tokens, H W pixels of the image without its padding.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from math import isqrt
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline import MANIFEST
from pipeline.params import load_params
from pipeline.project import Project
from pipeline.tables import UNTRAINED, teacher_of
from stages.evaluate.pictures import FONT_PX, INK, PAPER, png_of
from stages.prepare.manifest import ImageRecord, Manifest
from stages.prepare.pixels import read_raw, resize_image
from stages.prepare.restyled import Restyled
from store.atomic import write_bytes
from store.errors import ConfigError, SSRError, StoreIncompleteError
from store.files import Url
from store.read import FeatureReader

SAMPLE_IMAGES: Final = 16
SAMPLE_TOKENS: Final = 512  # of each of them
WIDEST_PX, NARROWEST_PX = 720, 480  # of a panel
GAP_PX, CAPTION_PX = 6, 20
SHEET_ROWS: Final = 8

Panel = tuple[str, NDArray[np.uint8]]
"""A caption and pixels (H, W, 3)."""


def palette_of(tokens: NDArray[np.float32]) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    """Return what colours features (C, h, w) by principal components of tokens (N, C).

    It gives uint8 (h, w, 3): the first three as red, green and blue, black where there are fewer;
    one token in a hundred is cut at either end. The largest weight of each axis is positive, so
    that equal tokens give equal colours.
    """
    mean = tokens.mean(axis=0)
    _, _, rows = np.linalg.svd(tokens - mean, full_matrices=False)
    axes = np.zeros((3, tokens.shape[1]), np.float32)
    axes[: len(rows)] = rows[:3]
    strongest = np.abs(axes).argmax(axis=1)
    axes *= np.where(axes[range(3), strongest] < 0, -1, 1)[:, None]
    low, high = np.percentile((tokens - mean) @ axes.T, (1, 99), axis=0).astype(np.float32)
    span = np.where(high > low, high - low, 1)

    def paint(features: NDArray[Any]) -> NDArray[np.uint8]:
        centred = features.astype(np.float32) - mean[:, None, None]
        scaled = (np.tensordot(centred, axes, axes=(0, 1)) - low) / span * 255
        painted: NDArray[np.uint8] = scaled.round().clip(0, 255).astype(np.uint8)
        return painted

    return paint


class Painter:
    """Draws images of a store, all of a level in the same colours.

    `records` are of the images whose present content is in the store. Beyond `sizes_px` (H, W) of
    every image lies padding, neither drawn nor part of the principal components.
    """

    def __init__(self, reader: FeatureReader, records: Iterable[ImageRecord]) -> None:
        self.reader = reader
        images = {s.image.image_id: s.image for s in reader.header.slots if s.live}
        contents = {name: image.content for name, image in images.items()}
        self.records = {r.image_id: r for r in records if contents.get(r.image_id) == r.content}
        self.sizes_px = {name: image.working_size_px for name, image in images.items()}
        self.sizes_px |= {name: each.resized_size_px for name, each in self.records.items()}
        self._palettes: dict[str, Callable[[NDArray[Any]], NDArray[np.uint8]]] = {}

    def _sample(self, level: str) -> NDArray[np.float32]:
        """Gather tokens (N, C) from images all over the store, those not embedded yet left out."""
        stride = self.reader.header.spec.level(level).stride_px
        every = -(-len(self.sizes_px) // SAMPLE_IMAGES)
        tokens = []
        for image_id, size_px in list(self.sizes_px.items())[::every]:
            h, w = (max(1, side // stride) for side in size_px)
            with suppress(StoreIncompleteError):
                features = self.reader.window(image_id, level, 0, 0, h, w)
                step = max(1, isqrt(h * w // SAMPLE_TOKENS))
                tokens.append(features[:, ::step, ::step].reshape(len(features), -1).T)
        if not tokens:
            raise StoreIncompleteError(
                f"{self.reader.header.files.url} has no {level} features to draw yet: run "
                "`ssr embed`"
            )
        return np.concatenate(tokens).astype(np.float32)

    def paint(self, image_id: str, level: str) -> NDArray[np.uint8]:
        """Draw one level of an image without its padding, uint8 (H, W, 3).

        Raises:
            StoreError: If features are missing or damaged.
        """
        if level not in self._palettes:
            self._palettes[level] = palette_of(self._sample(level))
        h, w = self.reader.size_tok(image_id, level)
        painted = self._palettes[level](self.reader.window(image_id, level, 0, 0, h, w))
        height, width = self.sizes_px[image_id]
        stride = self.reader.header.spec.level(level).stride_px
        return painted.repeat(stride, axis=0).repeat(stride, axis=1)[:height, :width]


def save_picture(out: Path, *, store: Url, image_id: str | None, params_path: Path) -> str | None:
    """Draw all levels of one image, by default the store's first, beside its photo if it is there.

    Returns why the picture is without the photo; None where it is not.

    Raises:
        ConfigError: If the store has no such image.
        StoreError: If features are missing or damaged.
    """
    reader = FeatureReader(store)
    painter, without = Painter(reader, ()), None
    image_id = image_id or next(iter(painter.sizes_px), "")
    if image_id not in painter.sizes_px:
        raise ConfigError(
            f"--image {image_id}: {store} has no such image; its {len(painter.sizes_px)} images "
            f"begin with {', '.join(list(painter.sizes_px)[:2])}"
        )
    panels: list[Panel] = []
    try:
        painter = Painter(reader, Manifest.read(MANIFEST).records)
        roots = load_params(params_path).prepare.roots
        if record := painter.records.get(image_id):
            panels.append((image_id, read_photo(record, roots[record.domain])))
        else:
            without = f"{MANIFEST} has no image {image_id} as it was embedded"
    except SSRError as error:  # a store can be looked at far from its images
        without = str(error)
    trained = teacher_of(reader.header.spec.provenance).get("trained")
    for level in reader.header.levels:
        h, w = reader.size_tok(image_id, level)
        caption = f"{level}: {h} x {w} tokens" + ("" if trained else f", {UNTRAINED}")
        panels.append((caption, painter.paint(image_id, level)))
    write_bytes(out, png_of(sheet(panels, columns=2)))
    return without


def read_photo(record: ImageRecord, root: Path) -> NDArray[np.uint8]:
    """Read the working image (H, W, 3), without its padding.

    Raises:
        DataError: If the file is missing, damaged or has changed since `ssr prepare`.
    """
    return resize_image(read_raw(record, root), record.resized_size_px)


def save_restyled(out: Path, project: Project) -> None:
    """Draw some restyled images in rows of content | style | restyled.

    Raises:
        DataError: An image is missing or changed.
    """
    place = project.workspace
    restyled = Restyled.read(place.restyled, of=place.manifest)
    records = {record.image_id: record for record in project.manifest.records}
    made = restyled.manifest.records
    panels: list[Panel] = []
    for record in made[:: -(-len(made) // SHEET_ROWS)]:
        noted = restyled.noted["images"][record.image_id]
        for what in ("content", "style"):
            shown = records[noted[what]]
            photo = read_raw(shown, place.roots[shown.domain])
            panels.append((f"{what} {shown.image_id}", photo))
        panels.append(("restyled", restyled.image(record)))
    write_bytes(out, png_of(sheet(panels, columns=3)))


def sheet(panels: Sequence[Panel], *, columns: int, panel_px: int | None = None) -> Image.Image:
    """Lay out panels row by row, all as large as the first, with captions.

    A panel is `panel_px` wide, or else about 480 to 720.
    """
    columns = min(columns, len(panels))
    height, width = panels[0][1].shape[:2]
    if panel_px is None:
        panel_px = round(width * min(WIDEST_PX / width, max(1, round(NARROWEST_PX / width))))
    height_px = max(1, round(height * panel_px / width))
    step_x, step_y = panel_px + GAP_PX, height_px + CAPTION_PX + GAP_PX
    whole = (columns * step_x + GAP_PX, -(-len(panels) // columns) * step_y + GAP_PX)
    picture, font = Image.new("RGB", whole, PAPER), ImageFont.load_default(FONT_PX)
    for number, (caption, pixels) in enumerate(panels):
        x, y = GAP_PX + number % columns * step_x, GAP_PX + number // columns * step_y
        line = Image.new("RGB", (panel_px, CAPTION_PX), PAPER)  # cuts what is too long
        ImageDraw.Draw(line).text((0, CAPTION_PX // 2), caption, fill=INK, font=font, anchor="lm")
        picture.paste(line, (x, y))
        shrunk = pixels.shape[1] > panel_px
        how = Image.Resampling.BOX if shrunk else Image.Resampling.NEAREST
        panel = Image.fromarray(pixels).resize((panel_px, height_px), how)
        picture.paste(panel, (x, y + CAPTION_PX))
    return picture
