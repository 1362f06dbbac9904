"""A store is the same wherever it lives: written, resumed, read, converted and shown."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from store.convert import convert
from store.errors import StoreError
from store.files import Url, files_at, join
from store.index import Index
from store.read import FeatureReader, open_features
from store.summary import inspect, open_dataset
from store.write import StoreWriter
from tests.store.worlds import (
    LEVELS,
    SPEC,
    changed,
    features,
    files,
    images,
    write,
)

IMAGES = images(7)


def test_a_store_has_the_same_bytes_everywhere(place: Url, tmp_path: Path) -> None:
    entry, _ = write(place, IMAGES)
    elsewhere, _ = write(tmp_path / "elsewhere", IMAGES)
    assert entry == elsewhere
    assert files(join(place, entry.path)) == files(tmp_path / "elsewhere" / entry.path)


def test_an_interrupted_store_is_continued(place: Url) -> None:
    entry, _ = write(place, IMAGES)
    store = join(place, entry.path)
    before = files(store)
    files_at(store).delete("stride8/c.1.0.0.0")
    files_at(store).delete("ledger/stride16/000002.json")
    files_at(store).delete("zarr.json")
    _, tasks = write(place, IMAGES)
    assert [(task.shard, task.levels) for task in tasks] == [(1, ("stride8",)), (2, ("stride16",))]
    assert files(store) == before
    assert write(place, IMAGES)[1] == []
    assert [task.shard for task in write(place, [changed(IMAGES[0]), *IMAGES[1:]])[1]] == [0]


@pytest.mark.parametrize("codec", ["float16", "int8-zstd"])
def test_training_reads_windows(place: Url, codec: str) -> None:
    spec = replace(SPEC, codec=codec)
    entry, _ = write(place, IMAGES, spec=spec)
    contents = {image.image_id: image.content for image in IMAGES}
    index = Index(stores={"source": entry})
    reader = open_features(place, index, "source", levels=LEVELS, images=contents)
    for image in IMAGES[:2]:
        wanted = features(image, "stride8").astype(np.float16)[:, 3:12, 1:8]
        window = reader.window(image.image_id, "stride8", 3, 1, 9, 7)
        np.testing.assert_allclose(window, wanted, atol=0 if codec == "float16" else 0.1)


def test_it_is_converted_inspected_and_shown(place: Url) -> None:
    entry, _ = write(place, IMAGES)
    converted = join(place, convert(join(place, entry.path), "int8-zstd").path)
    summary = inspect(converted)
    assert summary.complete
    assert summary.codec == "int8-zstd"
    dataset = open_dataset(converted)
    shown = dataset["stride16"].sel(image=IMAGES[3].image_id).values
    window = FeatureReader(converted).window(IMAGES[3].image_id, "stride16", 0, 0, 10, 12)
    np.testing.assert_array_equal(shown[:, :10, :12], window)


def test_credentials_stay_in_the_environment(bucket: str) -> None:
    place = f"{bucket}/secrets"
    entry, _ = write(place, IMAGES)
    everything = b"".join(files(join(place, entry.path)).values())
    assert b"key-of-tests" not in everything
    reader = FeatureReader(join(place, entry.path))
    reader.window(IMAGES[0].image_id, "stride8", 0, 0, 2, 2)
    assert b"key-of-tests" not in pickle.dumps(reader)
    with StoreWriter(place, SPEC, images(8), LEVELS) as writer:
        assert b"key-of-tests" not in pickle.dumps(writer.shards)


@pytest.mark.parametrize("url", ["gs://bucket/prefix", "s3://", "http://host/stores"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="neither a folder nor s3://bucket/prefix"):
        write(url, IMAGES)


def test_a_bucket_that_is_not_there_gives_one_line(bucket: str) -> None:
    with pytest.raises(
        StoreError, match=r"cannot write s3://nowhere-at-all/.*: .*bucket"
    ) as caught:
        write("s3://nowhere-at-all/prefix", IMAGES)
    assert "\n" not in str(caught.value)
