"""Conversion of a float16 store to another codec, without SAM."""

# C channels, h w tokens

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from numpy.typing import NDArray

from store.codec import EXACT, estimate_scale, scale_sample
from store.errors import StoreError
from store.files import Url, absolute, join, one_line_for_reads, stores_of
from store.fingerprint import sha256
from store.index import StoreEntry
from store.read import FeatureReader
from store.spec import ImageEntry, shard_file
from store.write import StoreWriter


def convert(
    path: Url, codec: str, *, progress: Callable[[int, int], None] = lambda done, todo: None
) -> StoreEntry:
    """Write the store of another codec beside a float16 store, and leave that one as it is.

    The new store is the one that embedding with this codec would have written, to the byte where
    the scales are equal, as they are unless the data set has grown since they were fixed. An
    interrupted conversion continues with the shards that it had not written.

    `progress` is called with images done and images to do.

    Raises:
        StoreError: There is no store of float16, it lacks shards or is damaged, the codec is
            unknown or the same, or the new store cannot be written.
    """
    reader = FeatureReader(path)
    header = reader.header
    if header.spec.codec != "float16" or codec in ("float16", EXACT):
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
    images = header.live
    contents = {image.image_id: image.content for image in images}
    reader.check(levels=header.levels, images=contents, fingerprint=header.spec.fingerprint)

    @cache
    def require_sound(level: str, shard: int) -> None:
        entry, url = reader.entry(level, shard), header.files.url
        name = shard_file(level, shard)
        with one_line_for_reads(f"{url}/{name}"):
            digest = sha256(header.files.read(name) or b"")
        if entry is None or digest != entry.digest:
            raise StoreError(
                f"{url}/{name} is damaged: `ssr verify {url} --repair` embeds it again"
            )

    def read(level: str, wanted: Sequence[ImageEntry | None]) -> dict[str, NDArray[Any]]:
        features = {}
        for image in filter(None, wanted):
            require_sound(level, reader.place(image.image_id, level)[0])
            size = reader.size_tok(image.image_id, level)
            features[image.image_id] = reader.window(image.image_id, level, 0, 0, *size)
        return features

    with StoreWriter(stores_of(path), spec, images, header.levels) as writer:
        sample = scale_sample(images)
        writer.fix_scales(
            {n: estimate_scale(n, read(n, sample).values()) for n in writer.unscaled},
            {level: header.bases[level] for level in writer.unprojected},
        )
        tasks = writer.pending()
        todo = sum(bool(image) for task in tasks for image in task.images)
        done = 0
        for task in tasks:
            writer.write_shard(task, {level: read(level, task.images) for level in task.levels})
            done += sum(bool(image) for image in task.images)
            progress(done, todo)
        return writer.finalise()
