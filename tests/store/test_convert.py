from dataclasses import replace
from pathlib import Path

import pytest

from store.convert import convert
from store.errors import StoreError
from tests.store.worlds import SPEC, changed, files, images, write

IMAGES = images(7)


@pytest.mark.parametrize("codec", ["int8", "int8-zstd"])
def test_a_converted_store_is_the_one_that_embedding_writes(tmp_path: Path, codec: str) -> None:
    write(tmp_path / "converted", IMAGES)
    source = tmp_path / "converted" / SPEC.relative_path
    before = files(source)
    entry = convert(source, codec)
    spec = replace(SPEC, codec=codec)
    embedded, _ = write(tmp_path / "embedded", IMAGES, spec=spec)
    assert entry == embedded
    assert entry.provenance == SPEC.provenance
    assert files(tmp_path / "converted" / entry.path) == files(tmp_path / "embedded" / entry.path)
    assert files(source) == before


def test_an_interrupted_conversion_continues(tmp_path: Path) -> None:
    write(tmp_path, IMAGES)
    entry = convert(tmp_path / SPEC.relative_path, "int8-zstd")
    before = files(tmp_path / entry.path)
    (tmp_path / entry.path / "stride8" / "c.1.0.0.0").unlink()
    (tmp_path / entry.path / "ledger" / "stride16" / "000002.json").unlink()
    steps: list[tuple[int, int]] = []
    convert(tmp_path / SPEC.relative_path, "int8-zstd", progress=lambda *s: steps.append(s))
    assert steps == [(3, 4), (4, 4)]
    assert files(tmp_path / entry.path) == before


@pytest.mark.parametrize("shard", [0, 1])
def test_a_whole_shard_of_other_features_is_not_converted(tmp_path: Path, shard: int) -> None:
    write(tmp_path / "other", [changed(image) for image in IMAGES])
    write(tmp_path, IMAGES)
    name = f"{SPEC.relative_path}/stride8/c.{shard}.0.0.0"
    (tmp_path / "other" / name).replace(tmp_path / name)
    with pytest.raises(StoreError, match=rf"{name} is damaged: `ssr verify .* --repair`"):
        convert(tmp_path / SPEC.relative_path, "int8")


def test_only_float16_is_converted_and_only_to_something_else(tmp_path: Path) -> None:
    spec = replace(SPEC, codec="int8")
    write(tmp_path, IMAGES)
    write(tmp_path, IMAGES, spec=spec)
    with pytest.raises(StoreError, match="is int8, to become int8-zstd: only float16 holds all"):
        convert(tmp_path / spec.relative_path, "int8-zstd")
    with pytest.raises(StoreError, match="is float16, to become float16"):
        convert(tmp_path / SPEC.relative_path, "float16")
    with pytest.raises(StoreError, match="unknown codec 'int3'"):
        convert(tmp_path / SPEC.relative_path, "int3")
