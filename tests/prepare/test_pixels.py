import os
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from stages.prepare.labels import LabelTable, to_train_ids
from stages.prepare.pixels import (
    MEAN,
    STD,
    decode_label,
    label_window,
    normalised_window,
    read_image,
    read_label,
)
from store.errors import DataError
from tests.prepare.conftest import ids, photo, save


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_truncated_file_and_a_small_one_of_a_huge_image_are_errors(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"x{suffix}"
    save(path, photo(1, (200, 300)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=r"x\.\w+: is damaged or not an image \(.+\): fetch"):
        read_image(path)
    if suffix == ".png":
        Image.new("1", (16_000, 16_000)).save(path)  # 32 kB that want 768 MB
        with pytest.raises(DataError, match=r"x\.png: "):
            read_image(path)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "png"), ("RGBA", "png"), ("P", "png"), ("CMYK", "jpeg"), ("RGB", "jpeg")],
)
def test_an_image_is_read_as_what_it_shows_whatever_its_name(
    tmp_path: Path, mode: str, kind: str
) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(photo(1)).convert(mode).save(path, kind)
    with Image.open(path) as image:
        assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("x.png", (4, 5), np.uint16),
        ("x.png", (4, 5, 3), np.uint16),
        ("x.tif", (4, 5, 3), np.uint16),
        ("x.ppm", (4, 5, 3), np.uint16),
    ],
)
def test_more_than_eight_bits_are_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], kind: type[np.number[Any]]
) -> None:
    assert cv2.imwrite(str(tmp_path / name), np.full(shape, 3, kind))
    with pytest.raises(DataError, match="bits per channel is not 8-bit colour"):
        read_image(tmp_path / name)
    if name == "x.png" and len(shape) == 3:  # ids, as SYNTHIA stores them
        assert (read_label(tmp_path / name).values == 3).all()
    else:
        with pytest.raises(DataError, match="is not a label"):
            read_label(tmp_path / name)


def test_a_label_of_fewer_bits_is_refused_for_its_ids_would_be_scaled(tmp_path: Path) -> None:
    (tmp_path / "x.ppm").write_bytes(b"P5\n2 1\n5\n\0\5")
    assert read_image(tmp_path / "x.ppm").max() == 255
    with pytest.raises(DataError, match="pixel mode L of 2 bits per channel is not a label"):
        read_label(tmp_path / "x.ppm")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_and_its_label_are_turned_alike(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(photo(1))
    stored.save(tmp_path / f"x{suffix}", exif=exif, lossless=True)
    upright = np.array(ImageOps.exif_transpose(Image.open(tmp_path / f"x{suffix}")))
    assert np.array_equal(read_image(tmp_path / f"x{suffix}"), upright)
    assert np.array_equal(read_label(tmp_path / f"x{suffix}").values, upright)
    stored.save(tmp_path / "plain.png")
    data = (tmp_path / "plain.png").read_bytes()
    turned = decode_label(data, tmp_path, orientation=orientation)
    assert np.array_equal(turned.values, upright)


def lossy(kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(photo(1)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (lossy("JPEG", quality=100), "JPEG"),
        (lossy("WEBP", quality=100), "WEBP"),
        (lossy("WEBP", quality=90, exif=b"Exif\0\0VP8L"), "WEBP"),
        (lossy("TIFF", compression="jpeg"), "TIFF"),
    ],
)
def test_a_lossy_label_is_refused_whatever_its_name(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "x.png").write_bytes(data)
    assert read_image(tmp_path / "x.png").shape == (20, 30, 3)
    with pytest.raises(DataError, match=rf"x\.png: is {kind} inside, a lossy format"):
        read_label(tmp_path / "x.png")


def test_a_pipe_a_device_and_a_program_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("x.png", "device.png"):
        with pytest.raises(DataError, match="is not a regular file: exclude or move it"):
            read_image(tmp_path / name)
    Image.fromarray(photo(1)).save(tmp_path / "x.eps")  # Pillow would start Ghostscript
    for read in (read_image, read_label):
        with pytest.raises(DataError, match="cannot identify image file"):
            read(tmp_path / "x.eps")


def test_transparent_pixels_have_no_class(tmp_path: Path) -> None:
    opaque = ids(0, 255)
    for label in (Image.fromarray(photo(1)), Image.fromarray(ids(3, 7))):
        label.putalpha(Image.fromarray(opaque))
        label.save(tmp_path / "x.png")
        found = read_label(tmp_path / "x.png").opaque
        assert found is not None
        assert np.array_equal(found, opaque == 255)
    paletted = Image.fromarray(ids(3, 7))
    paletted.putpalette(bytes(range(30)))
    paletted.save(tmp_path / "x.png", transparency=3)
    stored = read_label(tmp_path / "x.png")
    assert np.array_equal(stored.values, ids(3, 7))
    assert to_train_ids(stored, LabelTable({3: 0, 7: 1})).tolist() == ids(255, 1).tolist()
    paletted.save(tmp_path / "x.png", transparency=bytes([255] * 7 + [90]))
    with pytest.raises(DataError, match="300 pixels are half transparent"):
        read_label(tmp_path / "x.png")
    paletted.save(tmp_path / "x.png", transparency=0)  # of no pixel
    assert read_label(tmp_path / "x.png").opaque is None


def test_sixteen_bits_that_are_no_ids_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), np.full((4, 4, 3), 3 * 257, np.uint16))
    with pytest.raises(DataError, match=r"x\.png: holds 771 in the red of 16-bit colours"):
        read_label(tmp_path / "x.png")


def test_windows_are_normalised_and_padded_with_the_mean_colour_and_ignore() -> None:
    image = photo(1)
    window = normalised_window(image, 8, 16, 24, 32)
    assert window.shape == (3, 24, 32)
    assert window.dtype == np.float32
    exact = (image[8:20, 16:30].astype(np.float64) - MEAN) / STD
    assert np.abs(window[:, :12, :14] - exact.transpose(2, 0, 1)).max() < 1e-6
    assert not window[:, 12:].any()
    assert not window[:, :, 14:].any()
    label = label_window(ids(1, 2), 8, 16, 24, 32)
    assert (label[:12, :14] == 2).all()
    assert (label[12:] == 255).all()
    assert (label[:, 14:] == 255).all()
