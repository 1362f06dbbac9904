"""A store is the same wherever it lives: written, resumed, read, converted and shown."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from store.convert import convert
from store.errors import StoreError
from store.files import files_at, join
from store.index import Index
from store.read import FeatureReader, open_features
from store.summary import inspect, open_dataset
from store.write import StoreWriter
from tests.store.worlds import (
    LEVELS,
    SPEC,
    features,
    files,
    images,
    write,
)

IMAGES = images(7)


def test_a_bucket_is_written_continued_read_converted_and_shown(
    bucket: str, tmp_path: Path
) -> None:
    place = f"{bucket}/all"
    entry, _ = write(place, IMAGES)
    store = join(place, entry.path)
    before = files(store)
    assert write(tmp_path, IMAGES)[0] == entry
    assert before == files(tmp_path / entry.path)
    for name in ("stride8/c.1.0.0.0", "ledger/stride16/000002.json", "zarr.json"):
        files_at(store).delete(name)
    _, tasks = write(place, IMAGES)
    assert [(task.shard, task.levels) for task in tasks] == [(1, ("stride8",)), (2, ("stride16",))]
    assert files(store) == before
    converted = join(place, convert(store, "int8-zstd").path)
    index, contents = Index(stores={"source": entry}), {i.image_id: i.content for i in IMAGES}
    reader = open_features(place, index, "source", levels=LEVELS, images=contents)
    for image in IMAGES[:2]:
        wanted = features(image, "stride8").astype(np.float16)[:, 3:12, 1:8]
        window = (image.image_id, "stride8", 3, 1, 9, 7)
        np.testing.assert_array_equal(reader.window(*window), wanted)
        np.testing.assert_allclose(FeatureReader(converted).window(*window), wanted, atol=0.1)
    summary = inspect(converted)
    assert summary.complete
    assert summary.codec == "int8-zstd"
    shown = open_dataset(converted)["stride16"].sel(image=IMAGES[3].image_id).values
    held = FeatureReader(converted).window(IMAGES[3].image_id, "stride16", 0, 0, 10, 12)
    np.testing.assert_array_equal(shown[:, :10, :12], held)


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
