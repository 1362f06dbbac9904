"""Pictures with captions in rows, for the eye."""

# H W pixels, h w tokens

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

GAP_PX, CAPTION_PX, FONT_PX = 6, 20, 13
PAPER, INK = (255, 255, 255), (30, 30, 30)

Panel = tuple[str, NDArray[np.uint8]]
"""A caption and pixels (H, W, 3)."""


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
