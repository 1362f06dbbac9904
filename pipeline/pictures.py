"""Features for the eye: an image beside its tokens, their three principal components as colours.

Legend: N tokens, C channels, h w tokens, H W pixels of the image without its padding.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline import MANIFEST
from pipeline.params import load_params
from pipeline.tables import UNTRAINED, teacher_of
from stages.evaluate.pictures import FONT_PX, INK, PAPER, png_of
from stages.fields import Domain
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
SHEET_ROWS, SHEET_PANEL_PX = 8, 360

Panel = tuple[str, NDArray[np.uint8]]
"""A caption and pixels (H, W, 3)."""


@dataclass(frozen=True)
class Palette:
    """How tokens become colours: the same for all images of a level, so that pictures compare.

    The largest weight of each axis is positive, so that equal samples give equal colours; one
    token in a hundred lies below `low`, one above `high`.
    """

    mean: NDArray[np.float32]  # (C,)
    axes: NDArray[np.float32]  # (3, C), principal components for red, green and blue
    low: NDArray[np.float32]  # (3,), becomes 0
    high: NDArray[np.float32]  # (3,), becomes 255

    @classmethod
    def of(cls, tokens: NDArray[np.float32]) -> "Palette":
        """Find the principal components of tokens (N, C); what is missing of three is black."""
        mean = tokens.mean(axis=0)
        centred = tokens - mean
        _, _, rows = np.linalg.svd(centred, full_matrices=False)
        axes = np.zeros((3, tokens.shape[1]), np.float32)
        axes[: len(rows)] = rows[:3]
        strongest = np.abs(axes).argmax(axis=1)
        axes *= np.where(axes[range(3), strongest] < 0, -1, 1)[:, None]
        low, high = np.percentile(centred @ axes.T, (1, 99), axis=0).astype(np.float32)
        return cls(mean, axes, low, high)

    def paint(self, features: NDArray[Any]) -> NDArray[np.uint8]:
        """Give every token of (C, h, w) its colour: uint8 (h, w, 3)."""
        components = np.tensordot(
            features.astype(np.float32) - self.mean[:, None, None], self.axes, axes=(0, 1)
        )
        span = np.where(self.high > self.low, self.high - self.low, 1)
        scaled = (components - self.low) / span * 255
        return scaled.round().clip(0, 255).astype(np.uint8)


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
        self._palettes: dict[str, Palette] = {}

    def sample(self, level: str) -> NDArray[np.float32]:
        """Gather tokens (N, C) from images all over the store, those not embedded yet left out.

        Raises:
            StoreIncompleteError: If no image is embedded yet.
        """
        stride = self.reader.header.spec.level(level).stride_px
        every = -(-len(self.sizes_px) // SAMPLE_IMAGES)
        tokens = []
        for image_id, size_px in list(self.sizes_px.items())[::every]:
            h, w = (max(1, side // stride) for side in size_px)
            try:
                features = self.reader.window(image_id, level, 0, 0, h, w)
            except StoreIncompleteError:
                continue
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
            self._palettes[level] = Palette.of(self.sample(level))
        h, w = self.reader.size_tok(image_id, level)
        painted = self._palettes[level].paint(self.reader.window(image_id, level, 0, 0, h, w))
        height, width = self.sizes_px[image_id]
        return enlarge(painted, self.reader.header.spec.level(level).stride_px)[:height, :width]


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
    write_bytes(out, png_of(sheet(panels)))
    return without


def read_photo(record: ImageRecord, root: Path) -> NDArray[np.uint8]:
    """Read the working image (H, W, 3), without its padding.

    Raises:
        DataError: If the file is missing, damaged or has changed since `ssr prepare`.
    """
    return resize_image(read_raw(record, root), record.resized_size_px)


def enlarge(painted: NDArray[np.uint8], stride_px: int) -> NDArray[np.uint8]:
    """Give every token (h, w, 3) the working pixels that it stands for."""
    return painted.repeat(stride_px, axis=0).repeat(stride_px, axis=1)


def restyled_sheet(
    restyled: Restyled, manifest: Manifest, roots: Mapping[Domain, Path]
) -> Image.Image:
    """Draw some restyled images in rows of content | style | restyled.

    Raises:
        DataError: An image is missing or changed.
    """
    records = {record.image_id: record for record in manifest.records}
    made = restyled.manifest.records
    panels: list[Panel] = []
    for record in made[:: -(-len(made) // SHEET_ROWS)]:
        noted = restyled.noted["images"][record.image_id]
        for what in ("content", "style"):
            shown = records[noted[what]]
            panels.append((f"{what} {shown.image_id}", read_raw(shown, roots[shown.domain])))
        panels.append(("restyled", restyled.image(record)))
    return sheet(panels, panel_px=SHEET_PANEL_PX, columns=3)


def sheet(panels: Sequence[Panel], *, panel_px: int | None = None, columns: int = 2) -> Image.Image:
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
