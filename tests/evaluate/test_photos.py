"""Which images a call names, and what their predictions are called."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluate.predict import list_photos
from store.errors import ConfigError, DataError

OUT = Path("predicted")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def names(*wanted: str) -> list[str]:
    return [photo.name for photo in list_photos(wanted, out=OUT)[0]]


def test_a_folder_is_searched_to_the_bottom_and_names_keep_its_subfolders() -> None:
    touch("photos/b.JPG", "photos/a.png", "photos/town/a.jpeg", "photos/.cache/x.png")
    touch("photos/._a.png")
    assert names("photos") == ["a", "b", "town/a"]


def test_files_of_a_folder_that_are_no_images_are_counted() -> None:
    touch("photos/a.png", "photos/notes.txt", "photos/poses.csv")
    photos, others = list_photos(["photos"], out=OUT)
    assert (len(photos), others) == (1, 2)


def test_a_file_has_its_own_name_whatever_it_ends_with() -> None:
    touch("far/away/a.png", "b.heic")
    assert names("far/away/a.png", "b.heic") == ["a", "b"]


def test_a_glob_is_expanded_and_named_from_its_fixed_part() -> None:
    touch("d/x/1.jpg", "d/y/1.jpg", "d/y/2.png", "d/.hidden/1.jpg")
    assert names("d/*/*.jpg") == ["x/1", "y/1"]
    assert names("d/**/*.png") == ["y/2"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file() -> None:
    touch("photo[1].jpg")
    assert names("photo[1].jpg") == ["photo[1]"]


def test_images_of_one_name_in_two_folders_are_told_apart_by_the_folders() -> None:
    touch("day/1.jpg", "dusk/1.jpg")
    assert names("day", "dusk") == ["day/1", "dusk/1"]
    assert names("day/1.jpg", "dusk/1.jpg") == ["day/1", "dusk/1"]


def test_images_that_differ_in_their_suffix_keep_it() -> None:
    touch("photos/1.jpg", "photos/1.png", "photos/1.jpg.png")
    assert names("photos") == ["1.jpg", "1.jpg.png", "1.png"]


def test_an_image_that_is_named_twice_is_predicted_once() -> None:
    touch("photos/1.jpg")
    Path("link").symlink_to("photos")
    assert names("photos", "photos/1.jpg", "link", "./photos/*.jpg") == ["1"]


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
    assert {photo.path for photo in photos} == set(paths)
    assert len({photo.name for photo in photos}) == len(photos)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ([], "there are no images"),
        (["empty"], "empty: there are no images"),
        (["gone.jpg"], r"gone\.jpg: there is no such file or folder"),
        (["empty/*.jpg"], "no file matches"),
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
