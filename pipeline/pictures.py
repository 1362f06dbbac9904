"""Features for the eye: an image beside its tokens, their three main components as colours.

Legend: N tokens, C channels, h w tokens, H W working pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from math import isqrt
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.params import load_params
from stages.prepare.geometry import Size
from stages.prepare.manifest import ImageRecord, Manifest
from stages.prepare.pixels import MEAN, resize_image
from stages.prepare.reading import read_raw
from store.atomic import write_bytes
from store.errors import ConfigError, SSRError, StoreIncompleteError
from store.read import FeatureReader
from store.url import Url

SAMPLE_IMAGES: Final = 16
SAMPLE_TOKENS: Final = 512  # of each of them
WIDEST_PX, NARROWEST_PX = 720, 480  # of a panel
GAP_PX, CAPTION_PX, FONT_PX = 6, 20, 13
PAPER, INK = (255, 255, 255), (30, 30, 30)


@dataclass(frozen=True)
class Palette:
    """How tokens become colours: the same for all images of a level, so that pictures compare.

    Attributes:
        mean: (C,) of the sample.
        axes: (3, C), the main components, for red, green and blue; the largest weight of each is
            positive, so that equal samples give equal colours.
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
        """Find the main components of tokens (N, C); what is missing of three is black."""
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
        manifest_path: Says which file the image is.

    Returns:
        Why the picture is without the photo; None where it is not.

    Raises:
        ConfigError: If the store has no such image.
        StoreError: If features are missing or damaged.
    """
    reader = FeatureReader(store)
    live = (slot.image.image_id for slot in reader.header.slots if slot.live)
    image_id = image_id or next(live, "")
    photo = without = None
    try:
        roots = load_params(params_path).prepare.roots
        records = {record.image_id: record for record in Manifest.read(manifest_path).records}
        if image_id in records:
            photo = working_photo(records[image_id], roots[records[image_id].domain])
        else:
            without = f"{manifest_path} has no image {image_id}"
    except SSRError as error:  # a store can be looked at far from its images
        without = str(error)
    data = BytesIO()
    draw_features(reader, image_id, photo).save(data, "png")
    write_bytes(out, data.getvalue())
    return without


def draw_features(
    reader: FeatureReader, image_id: str, photo: NDArray[np.uint8] | None
) -> Image.Image:
    """Draw an image beside every level of its features.

    Args:
        reader: Its store.
        image_id: Which image.
        photo: uint8 (H, W, 3) of the working image; None leaves its panel out.

    Raises:
        ConfigError: If the store has no such image.
        StoreError: If features are missing or damaged.
    """
    slots = {slot.image.image_id: slot.image for slot in reader.header.slots if slot.live}
    if image_id not in slots:
        first = ", ".join(list(slots)[:2])
        raise ConfigError(
            f"--image {image_id}: {reader.header.files.url} has no such image; its {len(slots)} "
            f"images begin with {first}"
        )
    size_px = slots[image_id].working_size_px
    panels: dict[str, NDArray[np.uint8]] = {}
    if photo is not None:
        panels[f"{image_id}, {size_px[0]} x {size_px[1]} px"] = photo
    for level in reader.header.levels:
        palette = Palette.of(_sample(reader, level, list(slots)))
        h, w = reader.size_tok(image_id, level)
        caption = f"{level}: {h} x {w} tokens, colours hold {palette.share:.0%} of the variance"
        panels[caption] = palette.paint(reader.window(image_id, level, 0, 0, h, w))
    return _sheet(panels, size_px)


def working_photo(record: ImageRecord, root: Path) -> NDArray[np.uint8]:
    """Read the working image (H, W, 3), padded with the mean colour.

    Raises:
        DataError: If the file is missing, damaged or has changed since `ssr prepare`.
    """
    resized = resize_image(read_raw(record, root), record.resized_size_px)
    photo = np.empty((*record.working_size_px, 3), np.uint8)
    photo[:] = np.round(MEAN)
    photo[: resized.shape[0], : resized.shape[1]] = resized
    return photo


def _sample(reader: FeatureReader, level: str, image_ids: list[str]) -> NDArray[np.float32]:
    """Gather tokens (N, C) from images all over the store; those not embedded yet are left out."""
    every = -(-len(image_ids) // SAMPLE_IMAGES)
    tokens = []
    for image_id in image_ids[::every]:
        h, w = reader.size_tok(image_id, level)
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


def _sheet(panels: Mapping[str, NDArray[np.uint8]], size_px: Size) -> Image.Image:
    """Lay out panels with their captions, two in a row."""
    height, width = size_px
    scale = min(WIDEST_PX / width, max(1, round(NARROWEST_PX / width)))
    panel_px = (round(width * scale), max(1, round(height * scale)))  # PIL: width first
    step = (panel_px[0] + GAP_PX, panel_px[1] + CAPTION_PX + GAP_PX)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * step[0] + GAP_PX, rows * step[1] + GAP_PX), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for number, (caption, pixels) in enumerate(panels.items()):
        x = GAP_PX + number % columns * step[0]
        y = GAP_PX + number // columns * step[1]
        draw.text((x, y + CAPTION_PX // 2), caption, fill=INK, font=font, anchor="lm")
        shrunk = pixels.shape[1] > panel_px[0]
        how = Image.Resampling.BOX if shrunk else Image.Resampling.NEAREST
        sheet.paste(Image.fromarray(pixels).resize(panel_px, how), (x, y + CAPTION_PX))
    return sheet
