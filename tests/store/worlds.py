"""Small stores to test on: features that follow from image, content and level alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.codec import estimate_scale, scale_sample
from store.files import Url, files_at
from store.index import StoreEntry
from store.read import FeatureReader
from store.shard_writer import ShardTask
from store.spec import ImageEntry, StoreSpec, levels_of_format_1
from store.verify import MISSING, UNRECORDED, verify
from store.write import StoreWriter

SPEC = StoreSpec(
    domain="source",
    levels=levels_of_format_1(4),
    grid_px=(160, 192),  # 20 x 24 tokens at stride8: two by two chunks, not whole ones
    shard_images=3,
    codec="float16",
    provenance={"teacher": {"name": "tiny", "weights": "ab12"}, "precision": "float32"},
)
SIZES_PX = ((160, 192), (96, 192), (160, 64))
LEVELS = ("stride8", "stride16")


def images(count: int, *, first: int = 0) -> list[ImageEntry]:
    return [
        ImageEntry(f"source/train/{n:03d}", f"content {n}", SIZES_PX[n % len(SIZES_PX)])
        for n in range(first, first + count)
    ]


def changed(image: ImageEntry) -> ImageEntry:
    return replace(image, content=f"{image.content}, changed")


def features(
    image: ImageEntry, level: str, channels: int = 4, spec: StoreSpec = SPEC
) -> NDArray[np.float32]:
    seed = sha256(f"{image.image_id} {image.content} {level}".encode()).digest()
    h, w = (side // spec.level(level).stride_px for side in image.working_size_px)
    rng = np.random.default_rng(list(seed))
    return rng.normal(3.0, 2.0, (channels, h, w)).astype(np.float32)


def features_of(
    task: ShardTask, spec: StoreSpec = SPEC
) -> Mapping[str, Mapping[str, NDArray[np.float32]]]:
    channels = {level: spec.level(level).channels for level in task.levels}
    return {
        level: {
            i.image_id: features(i, level, channels[level], spec)
            for i in task.images
            if i is not None
        }
        for level in task.levels
    }


def window_of(reader: FeatureReader, image: ImageEntry, level: str) -> NDArray[Any]:
    """All that a store holds of an image."""
    size = reader.size_tok(image.image_id, level)
    return reader.window(image.image_id, level, 0, 0, *size)


def write(
    url: Url,
    wanted: Sequence[ImageEntry],
    *,
    levels: Sequence[str] = LEVELS,
    spec: StoreSpec = SPEC,
) -> tuple[StoreEntry, list[ShardTask]]:
    """Bring a store up to date; also return what had to be written."""
    with StoreWriter(url, spec, wanted, levels) as writer:
        sample = scale_sample(wanted)
        writer.fix_scales(
            {n: estimate_scale(n, (features(i, n) for i in sample)) for n in writer.unscaled}
        )
        tasks = writer.pending()
        for task in tasks:
            writer.write_shard(task, features_of(task, spec))
        assert writer.pending() == []
        return writer.finalise(), tasks


def files(store: Url) -> dict[str, bytes]:
    """Every file of a store but those of leases."""
    if str(store).startswith("s3://"):
        from s3fs import S3FileSystem  # many other tests use this module, and no bucket

        s3 = S3FileSystem(use_listings_cache=False)
        held = {name: s3.cat_file(name) for name in sorted(s3.find(str(store)))}
        start = len(str(store).removeprefix("s3://")) + 1
        found = {name[start:]: data for name, data in held.items()}
    else:
        found = {
            path.relative_to(store).as_posix(): path.read_bytes()
            for path in sorted(Path(store).rglob("*"))
            if path.is_file()
        }
    return {name: data for name, data in found.items() if not name.startswith("ledger/leases/")}


def flip_a_bit(store: Url, name: str, bit: int) -> None:
    """Flip one bit of a file, modulo the file's length."""
    held = files_at(store)
    data = bytearray(held.read(name) or b"")
    bit %= len(data) * 8
    data[bit // 8] ^= 1 << bit % 8
    held.write(name, bytes(data))


def assert_only_incomplete(store: Path) -> None:
    """A writer that was interrupted leaves shards that are missing, never shards that are wrong."""
    if (store / "zarr.json").exists():
        damage = [found for found in verify(store).damage if found.level is not None]
        assert {found.what for found in damage} <= {MISSING, UNRECORDED}, damage
