"""The report in a real browser, without a network: light, dark, narrow."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.report import REPORT
from tests.pipeline.workplace import demand

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
DARK = "--blink-settings=preferredColorScheme=0"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed"),
]


def screenshot(page: Path, out: Path, size_px: tuple[int, int], *options: str) -> NDArray[np.uint8]:
    """Let the browser draw a page of a window (width, height); return RGB (H, W, 3)."""
    assert BROWSER is not None
    offline = ("--proxy-server=127.0.0.1:9", "--disable-gpu", "--hide-scrollbars")
    subprocess.run(
        [
            *(BROWSER, "--headless=new", "--no-sandbox", *offline, *options),
            f"--window-size={size_px[0]},{size_px[1]}",
            f"--screenshot={out}",
            page.resolve().as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return np.asarray(Image.open(out).convert("RGB"))


@pytest.mark.parametrize(
    ("options", "size_px", "background"),
    [((), (1280, 4000), (255, 255, 255)), ((DARK,), (1280, 4000), (20, 23, 27)),
     ((), (500, 4000), (255, 255, 255))],
    ids=["light", "dark", "narrow"],
)  # fmt: skip
def test_the_page_is_drawn_in_the_colours_that_are_asked_for(
    photos: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    size_px: tuple[int, int],
    background: tuple[int, int, int],
) -> None:
    demand("report")
    pixels = screenshot(photos / "runs" / REPORT, tmp_path / "page.png", size_px, *options)
    assert tuple(pixels[4, 4]) == background
    margin = pixels[:, -8:]  # nothing is wider than the window
    assert (margin == background).all()
    drawn = (pixels != background).any(axis=(1, 2))
    assert drawn.sum() > 1000  # lines that are not empty
