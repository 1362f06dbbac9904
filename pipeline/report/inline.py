"""Pictures inside the page, as data URIs: the report is one file that needs no other."""

from base64 import b64encode
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDEST_PX, HIGHEST_PX = 480, 960
JPEG_QUALITY: Final = 82


def photo(pixels: NDArray[np.uint8]) -> str:
    """Turn RGB (H, W, 3) into a JPEG, shrunk to fit."""
    return _uri(_shrunk(Image.fromarray(pixels), Image.Resampling.BOX), "JPEG")


def drawing(pixels: NDArray[np.uint8]) -> str:
    """Turn flat colours (H, W, 3) into a PNG, shrunk to fit without mixing them."""
    small = _shrunk(Image.fromarray(pixels), Image.Resampling.NEAREST)
    return _uri(small.quantize(256) if small.getcolors(256) else small, "PNG")


def _shrunk(image: Image.Image, how: Image.Resampling) -> Image.Image:
    scale = min(WIDEST_PX / image.width, HIGHEST_PX / image.height)
    if scale >= 1:
        return image
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), how
    )


def _uri(image: Image.Image, kind: str) -> str:
    file = BytesIO()
    image.save(file, kind, quality=JPEG_QUALITY, optimize=True)
    return f"data:image/{kind.lower()};base64,{b64encode(file.getvalue()).decode()}"
