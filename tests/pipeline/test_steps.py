"""Stage one in steps, with bad images, in another codec and in a bucket, by the command line."""

import json
import shutil
import uuid
from pathlib import Path

import pytest

from pipeline.params import load_params
from store.index import Index
from tests.pipeline.mistakes import assert_refused
from tests.pipeline.workplace import change_params, demand, ssr, stored, the_store


def test_steps_of_a_job_array_make_what_one_run_makes(photos: Path) -> None:
    before = stored(photos)
    shutil.rmtree("data/features")
    Path("data/index.json").unlink()
    assert "is ready for parts; next: `ssr embed --part 1/N`" in demand_embed("--init")
    assert "part 1/2, 4 embedded now" in demand_embed("--part", "1/2")
    assert "when all parts are done: `ssr embed --finalise`" in demand_embed("--part", "2/2")
    assert "source: 6 images in" in demand_embed("--finalise")
    assert stored(photos) == before


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--part 3/2", "write it as I/N, from 1/N to N/N"),
        ("--part one", "write it as I/N"),
        ("--init --part 1/2", "give one at a time"),
        ("--part 1/2 -S embed.teacher.seed=5", "run `ssr embed --init` first"),
        ("--finalise -S embed.teacher.seed=6", "shard 0 of stride8 is missing"),
        ("-S embed.workers=2", "set embed.executor"),
        ("-S embed.executor=dask -S embed.scheduler=nobody", "embed.scheduler is 'nobody'"),
    ],
)
def test_wrong_steps_are_one_line(words: str, says: str) -> None:
    outcome = ssr("embed", *words.split())
    assert (outcome.code, says in outcome.err.splitlines()[-1]) == (2, True), outcome


def test_bad_images_are_left_out_of_the_whole_walk_and_said(photos: Path) -> None:
    bad = photos / "photos" / "day" / "images" / "00003.png"
    bad.write_bytes(bad.read_bytes()[:200])
    assert_refused("prepare", "00003.png")
    change_params(photos, {"prepare.on_bad_image": "skip"})
    said = demand("prepare")
    assert "SKIPPED source/train/day/images/00003" in said
    assert "source: 5 images in" in demand_embed()
    assert ssr("train", "--fresh").code == 0
    later = photos / "photos" / "dusk" / "images" / "00007.png"
    later.write_bytes(b"")  # after prepare
    shutil.rmtree("data/features")
    assert_refused("embed", "00007.png: has changed since the manifest was made")


def test_a_converted_store_is_trained_from_without_embedding(photos: Path) -> None:
    for domain in ("source", "target"):
        said = demand("convert", str(the_store(domain)), "--codec", "int8-zstd")
        assert "set store.codec: int8-zstd" in said
    change_params(photos, {"store.codec": "int8-zstd"})
    assert "6 images" in (said := demand_embed())
    assert "0 embedded now" in said
    demand_train()


def test_a_bucket_is_as_good_as_a_folder(photos: Path, bucket: str) -> None:
    """Write, resume, inspect, verify, repair and train from S3; credentials are nowhere."""
    from s3fs import S3FileSystem

    local = Index.read(Path("data/index.json"))
    shutil.rmtree("data/features")
    url = f"{bucket}/{uuid.uuid4().hex}"
    change_params(photos, {"store.url": url})
    assert "6 embedded now" in demand_embed()
    assert Index.read(Path("data/index.json")) == local
    assert "0 embedded now" in demand_embed()
    store = f"{url}/{local.stores['source'].path}"
    assert "complete" in demand("inspect", store, "--png", "features.png")
    assert Path("features.png").stat().st_size > 0
    assert "every file is what was written" in demand("verify", store)
    s3 = S3FileSystem(use_listings_cache=False)
    s3.pipe_file(f"{store}/stride8/c.0.0.0.0", b"damage")
    assert ssr("verify", store).code == 2
    demand("verify", store, "--repair")
    assert "every file is what was written" in demand("verify", store)
    demand_train()
    found = [path for path in photos.rglob("*") if path.is_file()]
    assert not [path for path in found if b"key-of-tests" in path.read_bytes()]
    assert not [name for name in s3.find(url) if b"key-of-tests" in s3.cat_file(name)]
    assert load_params(Path("params.yaml")).store.location == url


def demand_embed(*flags: str) -> str:
    """Embed; the warning about the untrained teacher is all there may be on stderr."""
    outcome = ssr("embed", *flags)
    assert outcome.code == 0, outcome
    return outcome.out


def demand_train() -> None:
    outcome = ssr("train", "-S", "train.iterations=2", "--out", "runs/again")
    assert outcome.code == 0, outcome
    assert json.loads(Path("runs/again/student/config.json").read_text())
