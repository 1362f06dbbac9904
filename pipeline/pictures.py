"""Features for the eye: an image beside its tokens, their three principal components as colours.

Legend: N tokens, C channels, h w tokens, H W pixels of the image without its padding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import isqrt
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.params import load_params
from pipeline.tables import UNTRAINED
from stages.prepare.geometry import Size
from stages.prepare.manifest import ImageRecord, Manifest
from stages.prepare.pixels import read_raw, resize_image
from store.atomic import write_bytes
from store.errors import ConfigError, SSRError, StoreIncompleteError
from store.files import Url
from store.read import FeatureReader

SAMPLE_IMAGES: Final = 16
SAMPLE_TOKENS: Final = 512  # of each of them
WIDEST_PX, NARROWEST_PX = 720, 480  # of a panel
GAP_PX, CAPTION_PX, FONT_PX = 6, 20, 13
PAPER, INK = (255, 255, 255), (30, 30, 30)

Panel = tuple[str, NDArray[np.uint8]]
"""A caption and pixels (H, W, 3)."""


@dataclass(frozen=True)
class Palette:
    """How tokens become colours: the same for all images of a level, so that pictures compare.

    Attributes:
        mean: (C,) of the sample.
        axes: (3, C), the principal components, for red, green and blue; the largest weight of each
            is positive, so that equal samples give equal colours.
        low: (3,) component that becomes 0; one token in a hundred lies below.
        high: (3,) component that becomes 255.
        share: Of the sample's variance that the three hold.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    share: float

    @classmethod
    def of(cls, tokens: NDArray[np.float32]) -> "Palette":
        """Find the principal components of tokens (N, C); what is missing of three is black."""
        mean = tokens.mean(axis=0)
        centred = tokens - mean
        _, strengths, rows = np.linalg.svd(centred, full_matrices=False)
        axes = np.zeros((3, tokens.shape[1]), np.float32)
        axes[: len(rows)] = rows[:3]
        strongest = np.abs(axes).argmax(axis=1)
        axes *= np.where(axes[range(3), strongest] < 0, -1, 1)[:, None]
        low, high = np.percentile(centred @ axes.T, (1, 99), axis=0).astype(np.float32)
        power = np.square(strengths)
        share = float(power[:3].sum() / power.sum()) if power.any() else 0.0
        return cls(mean, axes, low, high, share)

    def paint(self, features: NDArray[Any]) -> NDArray[np.uint8]:
        """Give every token of (C, h, w) its colour: uint8 (h, w, 3)."""
        components = np.tensordot(
            features.astype(np.float32) - self.mean[:, None, None], self.axes, axes=(0, 1)
        )
        span = np.where(self.high > self.low, self.high - self.low, 1)
        scaled = (components - self.low) / span * 255
        return scaled.round().clip(0, 255).astype(np.uint8)


def save_picture(
    out: Path, *, store: Url, image_id: str | None, params_path: Path, manifest_path: Path
) -> str | None:
    """Draw one image of a store into a PNG file, beside its photo where that can be found.

    Args:
        out: The file.
        store: The store.
        image_id: Which image; None takes the store's first.
        params_path: Says where the images are.
        manifest_path: Says which file the image is, and how far images go without their padding.

    Returns:
        Why the picture is without the photo; None where it is not.

    Raises:
        ConfigError: If the store has no such image.
        StoreError: If features are missing or damaged.
    """
    reader = FeatureReader(store)
    contents = {s.image.image_id: s.image.content for s in reader.header.slots if s.live}
    image_id = image_id or next(iter(contents), "")
    photo = without = None
    records: dict[str, ImageRecord] = {}
    try:
        records = {
            record.image_id: record
            for record in Manifest.read(manifest_path).records
            if contents.get(record.image_id) == record.content
        }
        roots = load_params(params_path).prepare.roots
        if image_id in records:
            photo = read_photo(records[image_id], roots[records[image_id].domain])
        else:
            without = f"{manifest_path} has no image {image_id} as it was embedded"
    except SSRError as error:  # a store can be looked at far from its images
        without = str(error)
    sizes_px = {name: record.resized_size_px for name, record in records.items()}
    data = BytesIO()
    draw_features(reader, image_id, photo, sizes_px).save(data, "png")
    write_bytes(out, data.getvalue())
    return without


def draw_features(
    reader: FeatureReader,
    image_id: str,
    photo: NDArray[np.uint8] | None,
    sizes_px: Mapping[str, Size],
) -> Image.Image:
    """Draw an image beside every level of its features.

    Args:
        reader: Its store.
        image_id: Which image.
        photo: uint8 (H, W, 3); None leaves its panel out.
        sizes_px: Image id -> (H, W). What lies beyond is padding, and neither drawn nor part of
            the principal components; an image that is not named here has none.

    Raises:
        ConfigError: If the store has no such image.
        StoreError: If features are missing or damaged.
    """
    painter = Painter(reader, sizes_px)
    if image_id not in painter.images:
        first = ", ".join(list(painter.images)[:2])
        raise ConfigError(
            f"--image {image_id}: {reader.header.files.url} has no such image; its "
            f"{len(painter.images)} images begin with {first}"
        )
    height, width = painter.sizes_px[image_id]
    panels: list[Panel] = []
    if photo is not None:
        panels.append((f"{image_id}, {height} x {width} px", photo))
    for level in reader.header.levels:
        share = painter.palette(level).share
        h, w = reader.size_tok(image_id, level)
        caption = f"{level}: {h} x {w} tokens, colours hold {share:.0%} of the variance"
        panels.append((caption, painter.paint(image_id, level)))
    panel_px = round(width * min(WIDEST_PX / width, max(1, round(NARROWEST_PX / width))))
    notes = _notes(reader)
    working_px = painter.images[image_id].working_size_px
    if working_px != (height, width):
        notes.insert(0, f"The padding to {working_px[0]} x {working_px[1]} px is cut off.")
    return sheet(panels, panel_px=panel_px, notes=notes)


class Painter:
    """Draws images of a store, all of a level in the same colours.

    Attributes:
        reader: The store.
        images: Image id -> what is stored of it.
        sizes_px: Image id -> (H, W) without padding.
    """

    def __init__(self, reader: FeatureReader, sizes_px: Mapping[str, Size]) -> None:
        self.reader = reader
        self.images = {s.image.image_id: s.image for s in reader.header.slots if s.live}
        self.sizes_px = {
            name: sizes_px.get(name, image.working_size_px) for name, image in self.images.items()
        }
        self._palettes: dict[str, Palette] = {}

    def palette(self, level: str) -> Palette:
        """Return the colours of a level.

        Raises:
            StoreIncompleteError: If no image is embedded yet.
        """
        if level not in self._palettes:
            tokens = sample_tokens(self.reader, level, self.sizes_px)
            self._palettes[level] = Palette.of(tokens)
        return self._palettes[level]

    def paint(self, image_id: str, level: str) -> NDArray[np.uint8]:
        """Draw one level of an image without its padding, uint8 (H, W, 3).

        Raises:
            StoreError: If features are missing or damaged.
        """
        h, w = self.reader.size_tok(image_id, level)
        painted = self.palette(level).paint(self.reader.window(image_id, level, 0, 0, h, w))
        height, width = self.sizes_px[image_id]
        return enlarge(painted, self.reader.header.spec.level(level).stride_px)[:height, :width]


def read_photo(record: ImageRecord, root: Path) -> NDArray[np.uint8]:
    """Read the working image (H, W, 3), without its padding.

    Raises:
        DataError: If the file is missing, damaged or has changed since `ssr prepare`.
    """
    return resize_image(read_raw(record, root), record.resized_size_px)


def sample_tokens(
    reader: FeatureReader, level: str, sizes_px: Mapping[str, Size]
) -> NDArray[np.float32]:
    """Gather tokens (N, C) from images all over the store; those not embedded yet are left out.

    Args:
        reader: The store.
        level: Which level.
        sizes_px: Image id -> (H, W); tokens that reach beyond are padding.

    Raises:
        StoreIncompleteError: If no image is embedded yet.
    """
    stride = reader.header.spec.level(level).stride_px
    every = -(-len(sizes_px) // SAMPLE_IMAGES)
    tokens = []
    for image_id, size_px in list(sizes_px.items())[::every]:
        h, w = (max(1, side // stride) for side in size_px)
        try:
            features = reader.window(image_id, level, 0, 0, h, w)
        except StoreIncompleteError:
            continue
        step = max(1, isqrt(h * w // SAMPLE_TOKENS))
        tokens.append(features[:, ::step, ::step].reshape(len(features), -1).T)
    if not tokens:
        raise StoreIncompleteError(
            f"{reader.header.files.url} has no {level} features to draw yet: run `ssr embed`"
        )
    return np.concatenate(tokens).astype(np.float32)


def enlarge(painted: NDArray[np.uint8], stride_px: int) -> NDArray[np.uint8]:
    """Give every token (h, w, 3) the working pixels that it stands for."""
    return painted.repeat(stride_px, axis=0).repeat(stride_px, axis=1)


def sheet(
    panels: Sequence[Panel], *, panel_px: int, columns: int = 2, notes: Sequence[str] = ()
) -> Image.Image:
    """Lay out panels of equal size with their captions above them, and notes below all.

    Args:
        panels: Row by row.
        panel_px: Width of a panel; its height follows.
        columns: In a row.
        notes: Lines of text.
    """
    columns = min(columns, len(panels))
    height, width = panels[0][1].shape[:2]
    size_px = (panel_px, max(1, round(height * panel_px / width)))  # PIL: width first
    step = (size_px[0] + GAP_PX, size_px[1] + CAPTION_PX + GAP_PX)
    bottom = -(-len(panels) // columns) * step[1] + GAP_PX
    whole = (columns * step[0] + GAP_PX, bottom + len(notes) * CAPTION_PX)
    picture = Image.new("RGB", whole, PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_PX)

    def write(text: str, x: int, y: int, room_px: int) -> None:
        if font.getlength(text) > room_px:
            while text and font.getlength(f"{text}...") > room_px:
                text = text[:-1]
            text = f"{text}..."
        draw.text((x, y + CAPTION_PX // 2), text, fill=INK, font=font, anchor="lm")

    for number, (caption, pixels) in enumerate(panels):
        x = GAP_PX + number % columns * step[0]
        y = GAP_PX + number // columns * step[1]
        write(caption, x, y, size_px[0])
        shrunk = pixels.shape[1] > panel_px
        how = Image.Resampling.BOX if shrunk else Image.Resampling.NEAREST
        picture.paste(Image.fromarray(pixels).resize(size_px, how), (x, y + CAPTION_PX))
    for number, note in enumerate(notes):
        write(note, GAP_PX, bottom - GAP_PX + number * CAPTION_PX, whole[0] - 2 * GAP_PX)
    return picture


def _notes(reader: FeatureReader) -> list[str]:
    """Say what the colours can be compared with, and whether the teacher has learnt anything."""
    spec = reader.header.spec
    colours = f"Colours compare between images of this {spec.domain} store, not between levels."
    teacher = spec.provenance.get("teacher")
    untrained = isinstance(teacher, Mapping) and not teacher.get("trained")
    return [colours, UNTRAINED] if untrained else [colours]
