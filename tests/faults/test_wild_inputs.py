"""Inputs as they occur in the wild, written by the generators in ../shared/faults."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.prepare.stage import PrepareConfig, run
from store.errors import DataError
from tests.prepare.conftest import folder_config

COLORS = ((128, 64, 128), (70, 70, 70), (107, 142, 35), (70, 130, 180), (220, 20, 60), (0, 0, 142))

Make = Callable[[str], Path]


@pytest.fixture
def make(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Write the world of a case of `data_cases` or `image_cases`."""
    monkeypatch.syspath_prepend(shared / "faults")

    def call(case: str) -> Path:
        module, _, name = case.partition(" ")
        importlib.import_module(module).main(name, tmp_path / "world")
        return tmp_path / "world"

    return call


def prepare(world: Path) -> tuple[str, ...]:
    """Prepare `mine` and `theirs`; return the findings."""
    classes = [{"name": f"c{i}", "color": color, "ids": [i]} for i, color in enumerate(COLORS)]
    config = {
        "source": folder_config(world / "mine", classes=classes, val_images=None, val_labels=None),
        "target": folder_config(world / "theirs", classes=classes, train_labels=None),
        "pad_to_px": 32,
        "on_bad_image": "fail",
    }
    result = run(
        PrepareConfig.model_validate(config),
        out=world / "manifest.parquet",
        cache=world / "cache",
        progress=lambda done, total, what: None,
    )
    return result.findings


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("data_cases palette", r"f00\.png: the palette is at odds with the ids"),
        ("data_cases jpeg_label", r"f00\.png: is JPEG inside, a lossy format"),
        ("image_cases deep", r"f00\.png: pixel mode RGB of 16 bits per channel is not 8-bit"),
        ("image_cases deep_tif", r"f00\.tif: pixel mode RGB of 16 bits per channel is not 8-bit"),
    ],
)
def test_what_has_no_certain_meaning_is_refused(make: Make, case: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        prepare(make(case))


@pytest.mark.parametrize(
    ("case", "finding"),
    [
        ("data_cases clean", None),
        ("data_cases upper_png", None),
        (
            "image_cases eadir",
            "target: train/images: passed over 1 entry that is not an image: @eaDir/",
        ),
        ("image_cases thumbsdb", "target: train/images: passed over 1 entry that is not an image"),
        ("data_cases bilinear", "source train: 8 of 8 labels look resampled"),
        ("image_cases exif180", "source train: 8 of 8 images are turned by EXIF"),
        ("image_cases masks_among_images", "target train: 6 of 12 images have one channel"),
    ],
)
def test_what_can_be_read_is_read_and_said(make: Make, case: str, finding: str | None) -> None:
    found = prepare(make(case))
    assert len(found) == (finding is not None)
    assert finding is None or found[0].startswith(finding)
