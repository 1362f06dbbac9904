"""Prediction of loose images, by students whose answers are known beforehand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from stages.evaluate import predict as module
from stages.evaluate.predict import PredictResult, list_photos, open_model, run
from stages.prepare.geometry import fit_size
from stages.prepare.pixels import normalised_window, read_image, resize_image
from stages.student.inference import predict_logits
from store.errors import ConfigError, DataError
from tests.evaluate.models import META, PALETTE, save_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "student")
    return tmp_path / "student"


def noise(seed: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def add(folder: Path, name: str, pixels: NDArray[np.uint8]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def call(
    model: Path,
    images: Sequence[Path],
    out: Path,
    *,
    window_px: int | None = None,
    batch: int = 2,
) -> PredictResult:
    return run(
        model=model,
        images=[str(path) for path in images],
        out=out,
        fit_px="model",
        window_px=window_px,
        batch=batch,
        device="cpu",
        progress=lambda *call: None,
    )


def ids(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as label:
        assert label.mode == "P"
        return np.array(label)


class ByColour(nn.Module):
    """Logits at stride 4: class 0 to 2 where red, green or blue is strongest; never 3."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pooled = torch.nn.functional.avg_pool2d(image, 4)  # (B, 3, H/4, W/4)
        return torch.cat([pooled, torch.full_like(pooled[:, :1], -9)], dim=1)


@pytest.fixture
def by_colour(model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that answers by the strongest colour."""

    def replace_network(folder: Path) -> object:
        found = open_model(folder)
        object.__setattr__(found, "network", ByColour().eval())
        return found

    monkeypatch.setattr(module, "open_model", replace_network)
    return model


STRIPES = np.repeat([0, 1, 2], 32)[None].repeat(64, axis=0).astype(np.uint8)


def stripes() -> NDArray[np.uint8]:
    """64x96: red, green and blue from left to right; borders at multiples of 4."""
    image: NDArray[np.uint8] = np.eye(3, dtype=np.uint8)[STRIPES] * np.uint8(255)
    return image


def test_each_image_becomes_a_label_a_colour_and_an_overlay(
    by_colour: Path, tmp_path: Path
) -> None:
    image = stripes()
    photo = add(tmp_path, "photos/town/a.png", image)
    result = call(by_colour, [photo.parents[1]], tmp_path / "out")
    assert result.names == ("town/a",)
    labels = ids(tmp_path / "out/labels/town/a.png")
    np.testing.assert_array_equal(labels, STRIPES)
    colors = np.array(Image.open(tmp_path / "out/colors/town/a.png"))
    np.testing.assert_array_equal(colors, np.array(PALETTE, np.uint8)[STRIPES])
    overlay = np.array(Image.open(tmp_path / "out/overlays/town/a.png"))
    assert overlay[0, 0].tolist() == [(255 + 128) // 2, 64 // 2, 128 // 2]


def test_photos_are_turned_upright_first(by_colour: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    Image.fromarray(stripes()).save(tmp_path / "turned.png", exif=exif)
    call(by_colour, [tmp_path / "turned.png"], tmp_path / "out")
    labels = ids(tmp_path / "out/labels/turned.png")
    assert labels.shape == (96, 64)
    np.testing.assert_array_equal(labels, np.rot90(STRIPES, -1))


@pytest.mark.parametrize("window_px", [None, 32])
@pytest.mark.parametrize("size", [(64, 96), (50, 71)])
def test_labels_are_those_of_evaluation(
    tmp_path: Path, size: tuple[int, int], window_px: int | None
) -> None:
    recipe = {"crop_px": 64}
    data = {"source": {}, "target": {"fit_px": [60, 40]}}
    student = save_model(tmp_path / "student", meta={**META, "recipe": recipe, "data": data})
    photo = add(tmp_path, "a.png", noise(1, size))
    result = call(tmp_path / "student", [photo], tmp_path / "out", window_px=window_px)
    assert result.fit_px == (60, 40)
    resized_px = {(64, 96): (40, 60), (50, 71): (40, 57)}[size]  # mmcv's rescale_size by hand
    assert fit_size(size, (60, 40)) == resized_px
    working = normalised_window(resize_image(read_image(photo), resized_px), 0, 0, 64, 64)
    expected = predict_logits(
        student,
        torch.from_numpy(working)[None],
        resized_size_px=resized_px,
        original_size_px=size,
        window_px=window_px,
    )
    labels = ids(tmp_path / "out/labels/a.png")
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(labels, expected[0].argmax(0).numpy())


def test_a_batch_changes_no_label(model: Path, tmp_path: Path) -> None:
    sizes = [(40, 56), (40, 56), (40, 56), (33, 47), (40, 56)]
    for index, size in enumerate(sizes):
        add(tmp_path, f"photos/{index}.png", noise(index, size))
    for batch in (1, 3):
        call(model, [tmp_path / "photos"], tmp_path / str(batch), batch=batch)
    for index, size in enumerate(sizes):
        one, three = (ids(tmp_path / f"{batch}/labels/{index}.png") for batch in (1, 3))
        assert one.shape == size
        np.testing.assert_array_equal(one, three)


def test_a_damaged_image_is_named_and_batches_before_it_are_kept(
    model: Path, tmp_path: Path
) -> None:
    good = add(tmp_path, "photos/1.png", noise(0, (32, 32)))
    (tmp_path / "photos/2.png").write_bytes(good.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"photos/2\.png: is damaged") as error:
        call(model, [tmp_path / "photos"], tmp_path / "out", batch=1)
    assert "\n" not in str(error.value)
    left = sorted(p.relative_to(tmp_path).as_posix() for p in (tmp_path / "out").rglob("*.*"))
    assert left == [f"out/{kind}/1.png" for kind in ("colors", "labels", "overlays")]


OUT = Path("predicted")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("ab"), st.sampled_from([".png", ".jpg"])),
        min_size=1,
    )
)
def test_no_two_images_share_a_name(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    paths = [folder / top / f"{stem}{suffix}" for top, stem, suffix in files]
    touch(*map(str, paths))
    photos, _ = list_photos([str(path) for path in paths], out=OUT)
    assert set(photos.values()) == set(paths)
    assert len({name.lower() for name in photos}) == len(photos)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (["empty"], "empty: there are no images"),
        (["empty/*.jpg"], r"empty/\*\.jpg: there is no such file or folder"),
    ],
)
def test_nothing_to_predict_is_an_error_that_says_where(wanted: list[str], says: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(DataError, match=says) as error:
        list_photos(wanted, out=OUT)
    assert "\n" not in str(error.value)


def test_predictions_are_not_put_among_the_images() -> None:
    touch("photos/1.jpg", "predicted/labels/1.png")
    with pytest.raises(ConfigError, match=r"--out photos/out lies in photos"):
        list_photos(["photos"], out=Path("photos/out"))
    with pytest.raises(ConfigError, match=r"lies in --out predicted"):
        list_photos(["**/*.png"], out=OUT)


def test_the_class_maps_of_semask_are_drawn_beside_each_other(tmp_path: Path) -> None:
    semask = {"window": 2, "attention": True, "aux_weight": 0.4}
    save_model(tmp_path / "student", semask=semask)
    photo = add(tmp_path, "a.png", noise(0, (50, 70)))
    call(tmp_path / "student", [photo], tmp_path / "out")
    maps = np.array(Image.open(tmp_path / "out/maps/a.png"))
    assert maps.shape == (50, 4 * 70, 3)
    network = open_model(tmp_path / "student").network
    pixels = torch.from_numpy(normalised_window(read_image(photo), 0, 0, 64, 96))[None]
    with torch.inference_mode():
        coarsest = network.see(pixels).class_maps[3].argmax(1)[0].numpy()
    drawn = np.array(PALETTE, np.uint8)[coarsest.repeat(32, 0).repeat(32, 1)]
    np.testing.assert_array_equal(maps[:, 3 * 70 :], drawn[:50, :70])
