"""Conversion of a float16 store to another codec, without SAM."""

# C channels, h w tokens

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from numpy.typing import NDArray

from store.errors import StoreError
from store.files import Url, absolute, join, one_line_for_reads, stores_of
from store.fingerprint import sha256
from store.grid import place_of, shard_file
from store.index import StoreEntry
from store.read import FeatureReader
from store.scale import estimate_scale, scale_sample
from store.spec import ImageEntry
from store.write import StoreWriter

Progress = Callable[[int, int], None]


def convert(path: Url, codec: str, *, progress: Progress = lambda done, todo: None) -> StoreEntry:
    """Write the store of another codec beside a float16 store, and leave that one as it is.

    The new store is the one that embedding with this codec would have written, to the byte where
    the scales are equal, as they are unless the data set has grown since they were fixed. An
    interrupted conversion continues with the shards that it had not written.

    Args:
        path: Url of the complete store, `<url>/<domain>/<fingerprint8>.zarr`.
        codec: Name of the codec to write.
        progress: Called with images done and images to do.

    Returns:
        What the index says about the new store.

    Raises:
        StoreError: There is no store of float16, it lacks shards or is damaged, the codec is
            unknown or the same, or the new store cannot be written.
    """
    reader = FeatureReader(path)
    header = reader.header
    if header.spec.codec != "float16" or codec == "float16":
        raise StoreError(
            f"the store {path} is {header.spec.codec}, to become {codec}: only float16 holds all "
            "there is; name a float16 store and another codec"
        )
    if str(join(stores_of(path), header.spec.relative_path)) != str(absolute(path)):
        raise StoreError(
            f"{path} does not lie at <stores>/{header.spec.relative_path}, where its attributes "
            "say it is: move it there, the new store goes beside it"
        )
    spec = replace(header.spec, codec=codec)
    images = [slot.image for slot in header.slots if slot.live]
    skipped = reader.skipped()
    reader.check(
        levels=header.levels,
        images={i.image_id: i.content for i in images if i.image_id not in skipped},
        fingerprint=header.spec.fingerprint,
    )

    place = {slot.image.image_id: n for n, slot in enumerate(header.slots) if slot.live}
    with one_line_for_reads(header.files.url):
        digests = {
            shard_file(level, entry.shard): entry.digest
            for level in header.levels
            for _, entry in header.recorded(level)
        }

    @cache
    def require_sound(name: str) -> None:
        with one_line_for_reads(f"{header.files.url}/{name}"):
            if sha256(header.files.read(name)) != digests[name]:
                raise StoreError(
                    f"{header.files.url}/{name} is damaged: `ssr verify {header.files.url} "
                    "--repair` embeds it again"
                )

    def read(level: str, wanted: Sequence[ImageEntry | None]) -> dict[str, NDArray[Any]]:
        there = [i.image_id for i in wanted if i is not None and i.image_id not in skipped]
        for image_id in there:
            require_sound(shard_file(level, place_of(place[image_id], spec.shard_images)[0]))
        sizes = {image_id: reader.size_tok(image_id, level) for image_id in there}
        return {name: reader.window(name, level, 0, 0, *size) for name, size in sizes.items()}

    with StoreWriter(stores_of(path), spec, images, header.levels) as writer:
        sample = scale_sample(images)
        writer.fix_scales(
            {level: estimate_scale(read(level, sample).values()) for level in writer.unscaled}
        )
        tasks = writer.pending()
        todo = sum(image is not None for task in tasks for image in task.images)
        done = 0
        for task in tasks:
            missing = {i.image_id for i in task.images if i is not None} & skipped.keys()
            writer.write_shard(
                task,
                {level: read(level, task.images) for level in task.levels},
                {image_id: skipped[image_id] for image_id in missing},
            )
            done += sum(image is not None for image in task.images)
            progress(done, todo)
        return writer.finalise()
