"""The room that a store is said to need, against stores on the disk."""

from dataclasses import replace
from pathlib import Path

import pytest

from store.codec import CODECS
from store.footprint import footprint, size_ratio
from store.spec import levels_of_format_1
from store.write import StoreWriter
from tests.store import worlds


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("levels", [("stride8",), ("stride8", "stride16", "stride32")])
def test_files_are_exact_and_bytes_within_five_percent(
    tmp_path: Path, count: int, levels: tuple[str, ...]
) -> None:
    spec, images = replace(worlds.SPEC, levels=levels_of_format_1(64)), worlds.images(count)
    with StoreWriter(tmp_path, spec, images, levels) as writer:
        for task in writer.pending():
            writer.write_shard(
                task,
                {
                    level: {
                        image.image_id: worlds.features(image, level, channels=64)
                        for image in task.images
                        if image is not None
                    }
                    for level in task.levels
                },
            )
    expected = footprint(spec, images, levels)
    files = [path for path in (tmp_path / spec.relative_path).rglob("*") if path.is_file()]
    assert expected.total.files == len(files)
    size_bytes = sum(path.stat().st_size for path in files)
    assert expected.total.size_bytes == pytest.approx(size_bytes, rel=0.05)


def test_shards_and_metadata_are_exact_to_the_byte(tmp_path: Path) -> None:
    images = worlds.images(7)  # three sizes, the last shard partly filled
    worlds.write(tmp_path, images, levels=("stride8",))
    (store,) = tmp_path.glob("*/*.zarr")
    shards = sum(path.stat().st_size for path in store.glob("stride8/c.*"))
    ledger = sum(path.stat().st_size for path in store.glob("ledger/stride8/*"))
    every = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    expected = footprint(worlds.SPEC, images, ("stride8",))
    assert expected.metadata.size_bytes == every - shards - ledger
    assert expected.levels["stride8"].size_bytes - shards == pytest.approx(ledger, rel=0.2)


def test_every_codec_is_smaller_than_float16() -> None:
    assert size_ratio("float16") == 1
    assert all(size_ratio(codec) < 1 for codec in CODECS[1:])


@pytest.mark.parametrize(
    ("codec", "measured"),
    [("int8", 0.5), ("int8-zstd", 0.376)],
)
def test_ratios_are_those_of_the_benchmark(codec: str, measured: float) -> None:
    assert size_ratio(codec) == pytest.approx(measured, rel=0.03)
