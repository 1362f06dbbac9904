"""A store under another codec, from the features that are stored: SAM is not needed."""

# C channels, h w tokens

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from store.errors import StoreError
from store.index import StoreEntry
from store.read import FeatureReader
from store.scale import estimate_scale, scale_sample
from store.spec import ImageEntry
from store.url import Url, stores_of
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
    spec = replace(header.spec, codec=codec)
    images = [slot.image for slot in header.slots if slot.live]
    reader.check(
        levels=header.levels,
        images={image.image_id: image.content for image in images},
        fingerprint=header.spec.fingerprint,
    )

    def read(level: str, wanted: Sequence[ImageEntry | None]) -> dict[str, NDArray[Any]]:
        sizes = {i.image_id: reader.size_tok(i.image_id, level) for i in wanted if i is not None}
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
            writer.write_shard(task, {level: read(level, task.images) for level in task.levels})
            done += sum(image is not None for image in task.images)
            progress(done, todo)
        return writer.finalise()
