"""Prediction of loose images: what is written for each, and which are taken under what name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stages.evaluate.predict import PredictResult, list_photos, open_model, run
from stages.prepare.geometry import fit_size
from stages.prepare.pixels import normalised_window, read_image, resize_image
from stages.student.inference import predict_logits
from store.errors import ConfigError, DataError, SSRError
from tests.evaluate.models import META, PALETTE, save_model
from tests.prepare.conftest import save


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def student() -> None:
    save_model(Path("student"))


def noise(seed: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def call(
    images: Sequence[str], out: str = "out", *, window_px: int | None = None, batch: int = 2
) -> PredictResult:
    """Predict with the student in the folder `student`."""
    return run(
        model=Path("student"),
        images=images,
        out=Path(out),
        fit_px="model",
        window_px=window_px,
        batch=batch,
        device="cpu",
        progress=lambda *call: None,
    )


def ids(path: str) -> NDArray[np.uint8]:
    with Image.open(path) as label:
        assert label.mode == "P"
        return np.array(label)


@pytest.mark.usefixtures("student")
def test_each_image_becomes_a_label_a_colour_and_an_overlay() -> None:
    image = noise(0, (64, 96))
    save(Path("photos/town/a.png"), image)
    assert call(["photos"]).names == ("town/a",)
    labels = ids("out/labels/town/a.png")
    assert len(np.unique(labels)) > 1
    colors, overlay = (
        np.array(Image.open(f"out/{kind}/town/a.png")) for kind in ("colors", "overlays")
    )
    np.testing.assert_array_equal(colors, np.array(PALETTE, np.uint8)[labels])
    np.testing.assert_array_equal(overlay, (image.astype(int) + colors) // 2)


@pytest.mark.usefixtures("student")
def test_photos_are_turned_upright_first() -> None:
    image = noise(0, (64, 96))
    save(Path("upright.png"), image)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    Image.fromarray(np.rot90(image).copy()).save("turned.png", exif=exif)
    call(["upright.png", "turned.png"])
    np.testing.assert_array_equal(ids("out/labels/turned.png"), ids("out/labels/upright.png"))


@pytest.mark.parametrize("window_px", [None, 32])
@pytest.mark.parametrize("size", [(64, 96), (50, 71)])
def test_labels_are_those_of_evaluation(size: tuple[int, int], window_px: int | None) -> None:
    recipe = {"crop_px": 64}
    data = {"source": {}, "target": {"fit_px": [60, 40]}}
    student = save_model(Path("student"), meta={**META, "recipe": recipe, "data": data})
    save(Path("a.png"), noise(1, size))
    assert call(["a.png"], window_px=window_px).fit_px == (60, 40)
    resized_px = {(64, 96): (40, 60), (50, 71): (40, 57)}[size]  # mmcv's rescale_size by hand
    assert fit_size(size, (60, 40)) == resized_px
    working = normalised_window(resize_image(read_image(Path("a.png")), resized_px), 0, 0, 64, 64)
    expected = predict_logits(
        student,
        torch.from_numpy(working)[None],
        resized_size_px=resized_px,
        original_size_px=size,
        window_px=window_px,
    )
    labels = ids("out/labels/a.png")
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(labels, expected[0].argmax(0).numpy())


@pytest.mark.usefixtures("student")
def test_a_batch_changes_no_label() -> None:
    sizes = [(40, 56), (40, 56), (40, 56), (33, 47), (40, 56)]
    for index, size in enumerate(sizes):
        save(Path(f"photos/{index}.png"), noise(index, size))
    for batch in (1, 3):
        call(["photos"], str(batch), batch=batch)
    for index, size in enumerate(sizes):
        one, three = (ids(f"{batch}/labels/{index}.png") for batch in (1, 3))
        assert one.shape == size
        np.testing.assert_array_equal(one, three)


@pytest.mark.usefixtures("student")
def test_a_damaged_image_is_named_and_batches_before_it_are_kept() -> None:
    good, bad = Path("photos/1.png"), Path("photos/2.png")
    save(good, noise(0, (32, 32)))
    bad.write_bytes(good.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"photos/2\.png: is damaged") as error:
        call(["photos"], batch=1)
    assert "\n" not in str(error.value)
    left = sorted(str(path) for path in Path("out").rglob("*.*"))
    assert left == [f"out/{kind}/1.png" for kind in ("colors", "labels", "overlays")]


def test_the_class_maps_of_semask_are_drawn_beside_each_other() -> None:
    semask = {"window": 2, "attention": True, "aux_weight": 0.4}
    save_model(Path("student"), semask=semask)
    save(Path("a.png"), noise(0, (50, 70)))
    call(["a.png"])
    maps = np.array(Image.open("out/maps/a.png"))
    assert maps.shape == (50, 4 * 70, 3)
    network = open_model(Path("student")).network
    pixels = torch.from_numpy(normalised_window(read_image(Path("a.png")), 0, 0, 64, 96))[None]
    with torch.inference_mode():
        coarsest = network.see(pixels).class_maps[3].argmax(1)[0].numpy()
    drawn = np.array(PALETTE, np.uint8)[coarsest.repeat(32, 0).repeat(32, 1)]
    np.testing.assert_array_equal(maps[:, 3 * 70 :], drawn[:50, :70])


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
    photos, _ = list_photos([str(path) for path in paths], out=Path("predicted"))
    assert set(photos.values()) == set(paths)
    assert len({name.lower() for name in photos}) == len(photos)


@pytest.mark.parametrize(
    ("wanted", "out", "error", "says"),
    [
        ("empty", "predicted", DataError, "empty: there are no images"),
        ("empty/*.jpg", "predicted", DataError, r"empty/\*\.jpg: there is no such file or folder"),
        ("photos", "photos/out", ConfigError, r"--out photos/out lies in photos"),
        ("**/*.png", "predicted", ConfigError, r"lies in --out predicted"),
    ],
)
def test_neither_nothing_nor_predictions_are_predicted(
    wanted: str, out: str, error: type[SSRError], says: str
) -> None:
    Path("empty").mkdir()
    touch("photos/1.jpg", "predicted/labels/1.png")
    with pytest.raises(error, match=says) as caught:
        list_photos([wanted], out=Path(out))
    assert "\n" not in str(caught.value)
