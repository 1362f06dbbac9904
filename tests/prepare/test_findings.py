"""What `prepare` finds odd in datasets, and says without refusing them."""

from pathlib import Path

from tests.prepare.conftest import (
    Prepare,
    cityscapes_config,
    drawn_config,
    folder_config,
    gta5_config,
    ids,
    photo,
    save,
)


def test_sound_data_needs_no_word(prepare: Prepare, own_data: Path) -> None:
    save(own_data / "val" / "images" / "v.jpg", photo(50))  # else it is a copy of a/1.jpg
    assert prepare(folder_config(own_data)).findings == ()


def test_classes_that_no_label_shows_are_named(prepare: Prepare, own_data: Path) -> None:
    save(own_data / "val" / "images" / "v.jpg", photo(50))
    for label in (own_data / "train" / "labels").rglob("*.png"):
        save(label, ids(7, 255))
    (finding,) = prepare(folder_config(own_data)).findings
    assert finding.startswith("source train: no label shows lane (1 of 2 classes): ")


def test_labels_of_the_target_that_nobody_reads_are_counted(
    prepare: Prepare, gta5: Path, cityscapes: Path
) -> None:
    def unused() -> list[str]:
        found = prepare(gta5_config(gta5), cityscapes_config(cityscapes)).findings
        return [finding for finding in found if finding.startswith("target train:")]

    (finding,) = unused()
    assert finding.startswith("target train: 2 label files are there and are not used")
    for label in (cityscapes / "gtFine" / "train").rglob("*.png"):
        label.unlink()
    assert unused() == []


def test_images_of_two_splits_are_counted_and_the_first_is_named(
    prepare: Prepare, own_data: Path
) -> None:
    save(own_data / "val" / "images" / "w.jpg", photo(1))  # a/2.jpg of train
    save(own_data / "val" / "labels" / "w.png", ids(0, 7))
    (finding,) = prepare(folder_config(own_data)).findings
    assert finding == (
        "source train and source val share 2 images, byte for byte; the first is "
        "train/images/a/1.jpg, there val/images/v.jpg"
    )


def test_images_of_two_domains_are_found_too(prepare: Prepare, own_data: Path) -> None:
    target = folder_config(own_data, train_labels=None, val_images=None, val_labels=None)
    found = prepare(folder_config(own_data), target).findings
    shared = [finding.partition(" images")[0] for finding in found]
    assert shared == [
        "source train and source val share 1",
        "source train and target train share 3",
        "source val and target train share 1",
    ]


def test_the_drawn_world_shows_no_image_twice(prepare: Prepare, tmp_path: Path) -> None:
    found = prepare(
        drawn_config(tmp_path / "day"),
        drawn_config(tmp_path / "dusk", style="dusk", seed=2),
        at_least_px=64,
    ).findings
    assert not [finding for finding in found if "share" in finding]
