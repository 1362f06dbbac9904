import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stages.prepare.manifest import Manifest
from store.errors import DataError
from tests.prepare.conftest import (
    Prepare,
    cityscapes_config,
    config_of,
    drawn_config,
    folder_config,
    gta5_config,
    ids,
    photo,
    save,
)


def test_gta5_to_cityscapes_is_one_manifest(prepare: Prepare, gta5: Path, cityscapes: Path) -> None:
    result = prepare(gta5_config(gta5), cityscapes_config(cityscapes))
    manifest = Manifest.read(result.path)
    assert manifest == result.manifest
    assert [record.image_id for record in manifest.records] == [
        "source/train/images/00001",
        "source/train/images/00002",
        "source/train/images/00003",
        "target/train/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit",
        "target/train/leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit",
        "target/val/leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit",
    ]
    first = manifest.records[0]
    assert (first.raw_size_px, first.resized_size_px) == ((20, 30), (20, 30))
    assert first.working_size_px == (32, 32)
    expected = [0] * 19
    expected[0] = expected[13] = 20 * 10
    assert first.class_pixels == tuple(expected)
    assert [(r.label, r.class_pixels) for r in manifest.records[3:5]] == [(None, None)] * 2


LANE = {"name": "lane", "color": [1, 2, 3], "ids": [0]}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (drawn_config(Path("data"), style="wide", strength=0.5), "set it to 1 with wide"),
        (folder_config(Path("data"), train_images="/abs"), "inside root"),
        (folder_config(Path("data"), train_images="../x"), "inside root"),
        (folder_config(Path("data"), val_labels=None), "set both or neither"),
        (folder_config(Path("data"), val_share=0.1), "set it to null where val_images is given"),
        (folder_config(Path("data"), labelled=2), "source.labelled is a key of the target"),
        (folder_config(Path("data"), ignore_ids=[7]), "label id 7 is used twice"),
        (folder_config(Path("data"), classes=[LANE, LANE]), "class name 'lane' is used twice"),
    ],
)
def test_wrong_values_are_refused(prepare: Prepare, source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        prepare(source)


def test_a_source_without_labels_or_a_target_without_images_is_one_line(
    prepare: Prepare, own_data: Path, published: Callable[[str], Path]
) -> None:
    sound = folder_config(own_data)
    unlabelled = (
        folder_config(own_data, train_labels=None),
        config_of("dark_zurich", published("dark_zurich"), train_times=["day"]),
    )
    for source in unlabelled:
        with pytest.raises(DataError, match=r"^prepare.source names no labels of its images.*$"):
            prepare(source)
    with pytest.raises(DataError, match=r"^prepare.target has no image to train on left.*$"):
        prepare(sound, folder_config(own_data, train_images=None))


@pytest.mark.parametrize(
    ("labelled", "kept"),
    [
        (2, ["a/1", "a/2"]),
        (3, ["a/1", "a/2", "b/1"]),
        (["train/images/b/1", "target/train/train/images/a/2"], ["a/2", "b/1"]),
    ],
)
def test_chosen_labels_of_the_target_train_split_are_kept(
    prepare: Prepare, own_data: Path, labelled: int | list[str], kept: list[str]
) -> None:
    result = prepare(folder_config(own_data), folder_config(own_data, labelled=labelled))
    train = result.manifest.select(domain="target", split="train")
    found = [record for record in train if record.class_pixels is not None]
    assert [r.label for r in found] == [f"train/labels/{name}.png" for name in kept]
    assert {r.label for r in train} - {r.label for r in found} <= {None}
    assert (f"{3 - len(kept)} label files" in str(result.findings)) == (len(kept) < 3)


@pytest.mark.parametrize(
    ("labelled", "spoil", "says"),
    [
        (3, "train/labels/b/1.png", "is 3, but 2 of 3 images to train on have a label in "),
        (["val/images/v"], None, "names val/images/v, but no such image to train on has a label"),
        (["train/images/b/1"], "train/labels/b/1.png", "names train/images/b/1, but no such image"),
    ],
)
def test_labelled_images_that_are_not_there_are_one_line(
    prepare: Prepare, own_data: Path, labelled: int | list[str], spoil: str | None, says: str
) -> None:
    target = shutil.copytree(own_data, own_data.with_name("other"))
    if spoil is not None:
        (target / spoil).unlink()
    with pytest.raises(DataError, match=rf"^prepare\.target\.labelled {says}.*$"):
        prepare(folder_config(own_data), folder_config(target, labelled=labelled))


def test_counts_are_taken_at_raw_resolution_and_sizes_fit(prepare: Prepare, own_data: Path) -> None:
    result = prepare(folder_config(own_data, fit_px=[15, 10]), pad_to_px=64)
    record = result.manifest.records[0]
    assert record.class_pixels == (200, 200)
    assert record.resized_size_px == (10, 15)
    assert record.working_size_px == (64, 64)


def test_a_second_run_changes_nothing(prepare: Prepare, own_data: Path) -> None:
    first = prepare(folder_config(own_data))
    stamp = first.path.stat().st_mtime_ns
    seen: list[int] = []
    second = prepare(folder_config(own_data), progress=lambda done, *_: seen.append(done))
    assert (first.changed, second.changed, seen) == (True, False, [])
    assert second.path.stat().st_mtime_ns == stamp
    assert second.manifest == first.manifest


def test_the_manifest_notes_the_datasets_but_not_where_they_lie(
    prepare: Prepare, own_data: Path
) -> None:
    config = folder_config(own_data)
    noted = Manifest.read(prepare(config).path).sources["source"]
    given = {key: value for key, value in config.items() if key != "root"}
    given |= {"exclude": [], "val_share": None, "image_suffix": "", "label_suffix": ""}
    assert noted == given


def test_only_changed_images_are_read_again(prepare: Prepare, own_data: Path) -> None:
    before = prepare(folder_config(own_data)).manifest
    save(own_data / "train" / "images" / "a" / "1.jpg", photo(77))
    save(own_data / "train" / "labels" / "a" / "2.png", ids(0, 7, 255)[:, ::-1])
    seen: list[int] = []
    result = prepare(folder_config(own_data), progress=lambda done, total, what: seen.append(total))
    assert result.changed
    assert seen == [2, 2]
    first, second, *others = result.manifest.records
    assert first.sha256 != before.records[0].sha256
    assert second.label_sha256 != before.records[1].label_sha256
    assert second.class_pixels == before.records[1].class_pixels
    assert tuple(others) == before.records[2:]


def test_a_damaged_cache_is_ignored_and_rebuilt(prepare: Prepare, own_data: Path) -> None:
    first = prepare(folder_config(own_data))
    cache = first.path.with_name("scan.cache")
    good = cache.read_bytes()
    for damaged in (b"x" * 100, good[:-5], good.replace(b"200", b"300")):
        cache.write_bytes(damaged)
        assert prepare(folder_config(own_data)).manifest == first.manifest
        assert cache.read_bytes() == good


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


IMAGE, LABEL = "train/images/a/1.jpg", "train/labels/a/1.png"


@pytest.mark.parametrize(
    ("bad", "spoil", "message"),
    [
        (IMAGE, _truncate, "is damaged or not an image"),
        (LABEL, Path.unlink, r"images/a/1\.jpg has no label there: add it"),
        (
            LABEL,
            lambda path: save(path, ids(0, size=(20, 31))),
            r"is 31x20, but its image .*images/a/1\.jpg is 30x20",
        ),
        (LABEL, lambda path: save(path, photo(1)), r"label colours \("),
    ],
)
def test_bad_files_are_named_in_one_line_and_the_old_manifest_stays(
    prepare: Prepare, own_data: Path, bad: str, spoil: Callable[[Path], Any], message: str
) -> None:
    first = prepare(folder_config(own_data))
    manifest = first.path.read_bytes()
    spoil(own_data / bad)
    with pytest.raises(DataError, match=rf"^.*{bad}: .*{message}.*$"):
        prepare(folder_config(own_data))
    assert first.path.read_bytes() == manifest


@pytest.mark.parametrize("bad", [IMAGE, LABEL])
def test_bad_images_are_left_out_and_listed_where_that_is_asked_for(
    prepare: Prepare, own_data: Path, bad: str
) -> None:
    sound = prepare(folder_config(own_data)).manifest
    _truncate(own_data / bad)
    manifest = prepare(folder_config(own_data), on_bad_image="skip").manifest
    assert [*manifest.skipped] == ["source/train/train/images/a/1"]
    assert bad in manifest.skipped["source/train/train/images/a/1"]
    kept = tuple(record for record in sound.records if record.image_id not in manifest.skipped)
    assert manifest == replace(sound, records=kept, skipped=manifest.skipped)
    assert Manifest.read(prepare(folder_config(own_data), on_bad_image="skip").path) == manifest


def test_not_every_image_can_be_left_out(prepare: Prepare, own_data: Path) -> None:
    for path in (own_data / "train" / "images").rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"prepare\.source has no image to train on that can be"):
        prepare(folder_config(own_data), on_bad_image="skip")


def test_problems_of_both_domains_are_listed_at_once_by_their_cure(
    prepare: Prepare, own_data: Path
) -> None:
    target = shutil.copytree(own_data, own_data.with_name("other"))
    for stored, name in enumerate(("a/1", "a/2", "b/1")):
        save(own_data / "train" / "labels" / f"{name}.png", ids(0, 10 + stored))
    (target / "val" / "labels" / "v.png").rename(target / "val" / "labels" / "v_L.png")
    (target / "train" / "images").rename(target / "train" / "pictures")
    with pytest.raises(DataError) as info:
        prepare(folder_config(own_data), folder_config(target))
    heading, unknown, folder, missing = str(info.value).split("\n  ")
    assert heading.startswith("3 kinds of problems")
    assert unknown.startswith(f"prepare.source.train_labels: {own_data}/train/labels/a/1.png: ")
    assert "label ids 10, 11, 12 are not in the class table" in unknown
    assert unknown.endswith(" (2 more: 2.jpg, 1.jpg)")
    assert folder.startswith(f"prepare.target: {target}/train/images: there is no such folder")
    assert missing.startswith(f"prepare.target.val_labels: {target}/val/labels/v.png: ")
    assert "correct label_suffix" in missing


def test_two_images_of_one_name_are_an_error(prepare: Prepare, own_data: Path) -> None:
    save(own_data / "train" / "images" / "a" / "1.png", photo(1))
    with pytest.raises(DataError, match=r"a/1\.jpg \(train\) and .*a/1\.png \(train\)"):
        prepare(folder_config(own_data))


def test_domains_of_other_classes_are_an_error(
    prepare: Prepare, own_data: Path, gta5: Path
) -> None:
    with pytest.raises(
        DataError, match=r"same classes .* class 0 is road in source and lane in target"
    ):
        prepare(gta5_config(gta5), folder_config(own_data))


def test_a_name_that_is_not_utf8_is_an_error(prepare: Prepare, own_data: Path) -> None:
    for path in (IMAGE, "train/labels/a/1.png"):
        shutil.copy(own_data / path, (own_data / path).with_name(os.fsdecode(b"\xff.png")))
    with pytest.raises(DataError, match=r"udcff.* is not UTF-8: rename the file"):
        prepare(folder_config(own_data))


def test_labels_of_the_target_train_split_stay_out(prepare: Prepare, cityscapes: Path) -> None:
    config = cityscapes_config(cityscapes)
    train = prepare(config, config).manifest.select(domain="target", split="train")
    assert [(record.label, record.class_pixels) for record in train] == [(None, None)] * 2
