"""Pictures for people: image, label and prediction side by side; what is taken for what.

Legend: H W pixels, K classes.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from stages.prepare.labels import ClassTable
from stages.prepare.pixels import FORMATS
from store.errors import DataError

PANEL_PX = 720  # widest panel; larger images are shrunk, smaller ones are left as they are
GAP_PX = 4
MARGIN_PX = 8
SWATCH_PX = 14
FONT_PX = 13
PAPER, INK, FRAME = (255, 255, 255), (30, 30, 30), (160, 160, 160)
CELL_PX = 34
FULL = (8, 69, 148)  # a cell that holds all pixels of its row
VOID = (0, 0, 0)
_IMAGE_ID, _PANEL = "image_id", "panel_px"  # what a triptych says of itself


def png_of(picture: Image.Image, about: PngInfo | None = None) -> bytes:
    """Encode a picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=about)
    return file.getvalue()


def triptych_png(
    image_id: str,
    image: NDArray[np.uint8],
    label: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    classes: ClassTable,
) -> bytes:
    """Draw image | label | prediction, with the legend below where it takes less room than they do.

    The image is RGB (H, W, 3), the others are class ids (H, W), of which ignored ones are black.
    The file says which image it is of, and where its panels end.
    """
    height, width = label.shape
    scale = min(1.0, PANEL_PX / width)
    width_px, height_px = round(width * scale), max(1, round(height * scale))
    strip = _legend(classes, 3 * width_px + 2 * GAP_PX)
    legend_px = strip.height if strip.height < height_px else 0
    picture = Image.new("RGB", (3 * width_px + 2 * GAP_PX, height_px + legend_px), PAPER)
    panels = (image, colorize(label, classes), colorize(prediction, classes))
    for column, panel in enumerate(panels):
        how = Image.Resampling.NEAREST if column else Image.Resampling.BOX
        shrunk = Image.fromarray(panel).resize((width_px, height_px), how)
        picture.paste(shrunk, (column * (width_px + GAP_PX), 0))
    if legend_px:
        picture.paste(strip, (0, height_px))
    about = PngInfo()
    about.add_itxt(_IMAGE_ID, image_id)
    about.add_text(_PANEL, f"{width_px}x{height_px}")
    return png_of(picture, about)


def read_pictures(run: Path) -> dict[str, tuple[Image.Image, ...]]:
    """Read the pictures of a run's last evaluation: image id -> image, label and prediction.

    Raises:
        DataError: A file is not a picture of `triptych_png`.
    """
    found = {}
    for path in sorted((run / "pictures").glob("[0-9][0-9][0-9]-*.png")):
        try:
            with Image.open(path, formats=FORMATS) as picture:
                picture.load()
                about = getattr(picture, "text", {})
                width, height = map(int, about[_PANEL].split("x"))
                lefts = (column * (width + GAP_PX) for column in range(3))
                panels = tuple(picture.crop((x, 0, x + width, height)) for x in lefts)
                found[str(about[_IMAGE_ID])] = panels
        except (OSError, KeyError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{path}: is not a picture of this version; run `ssr evaluate`"
            ) from error
    return found


def colorize(ids: NDArray[np.uint8], classes: ClassTable) -> NDArray[np.uint8]:
    """Paint class ids (H, W) in the table's colours, RGB (H, W, 3); all other ids are black."""
    colors = np.full((256, 3), VOID, np.uint8)
    colors[: len(classes.palette)] = classes.palette
    painted: NDArray[np.uint8] = colors[ids]
    return painted


def confusion_picture(counts: NDArray[np.int64], names: Sequence[str]) -> Image.Image:
    """Draw pixels (K, K): a row is a label, its cells the percent of its pixels by prediction."""
    font = ImageFont.load_default(FONT_PX)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names_px = MARGIN_PX + max(round(font.getlength(name)) for name in names) + MARGIN_PX
    title = "percent of the pixels of a label (row) that are predicted as a class (column)"
    left_px, top_px = names_px, names_px + FONT_PX + 2 * MARGIN_PX
    side_px = CELL_PX * len(names)
    width_px = max(left_px + side_px, MARGIN_PX + round(font.getlength(title))) + MARGIN_PX
    picture = Image.new("RGB", (width_px, top_px + side_px + MARGIN_PX), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN_PX, MARGIN_PX), title, fill=INK, font=font)
    for index, name in enumerate(names):
        middle_px = round((index + 0.5) * CELL_PX)
        place = (left_px - MARGIN_PX, top_px + middle_px)
        draw.text(place, name, fill=INK, font=font, anchor="rm")
        column = Image.new("RGB", (names_px, CELL_PX), PAPER)  # turned to stand on its left end
        ImageDraw.Draw(column).text((MARGIN_PX, CELL_PX // 2), name, INK, font, anchor="lm")
        upright = column.transpose(Image.Transpose.ROTATE_90)
        picture.paste(upright, (left_px + index * CELL_PX, top_px - names_px))
    for (row, column_index), share in np.ndenumerate(shares):
        x, y = left_px + column_index * CELL_PX, top_px + row * CELL_PX
        color = tuple(round(p + share * (f - p)) for p, f in zip(PAPER, FULL, strict=True))
        draw.rectangle((x, y, x + CELL_PX, y + CELL_PX), fill=color, outline=FRAME)
        if share >= 0.005:  # else it reads 0
            place = (x + CELL_PX // 2, y + CELL_PX // 2)
            ink = PAPER if share > 0.5 else INK
            draw.text(place, f"{share:.0%}"[:-1], fill=ink, font=font, anchor="mm")
    return picture


def _legend(classes: ClassTable, width_px: int) -> Image.Image:
    """Lay out a swatch and a name per class in rows."""
    font = ImageFont.load_default(FONT_PX)
    entries = [*zip(classes.names, classes.palette, strict=True), ("ignored", VOID)]
    step_px = MARGIN_PX + SWATCH_PX + MARGIN_PX // 2 + MARGIN_PX  # around a name
    step_px += max(round(font.getlength(name)) for name, _ in entries)
    columns = max(1, (width_px - MARGIN_PX) // step_px)
    row_px = SWATCH_PX + MARGIN_PX
    rows = -(-len(entries) // columns)
    strip = Image.new("RGB", (width_px, rows * row_px + MARGIN_PX), PAPER)
    draw = ImageDraw.Draw(strip)
    for index, (name, color) in enumerate(entries):
        x = MARGIN_PX + index % columns * step_px
        y = MARGIN_PX + index // columns * row_px
        draw.rectangle((x, y, x + SWATCH_PX - 1, y + SWATCH_PX - 1), fill=color, outline=FRAME)
        middle = (x + SWATCH_PX + MARGIN_PX // 2, y + SWATCH_PX // 2)
        draw.text(middle, name, fill=INK, font=font, anchor="lm")
    return strip
