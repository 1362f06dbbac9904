"""Stored results of the first, frozen blocks of `rein_vfm`, for fixed views of the images.

Blocks before `from_block` see nothing that training changes: what they make of a view is computed
once, in float32, and training goes on from there. It is a store of one level, whose images are
views. A view's name has its image, crop and flip, so that the list of images is that of views.

# B batch, C channels, T tokens of a view: those of the taps, then those that enter the next block
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from stages.device import cpu_threads, float32_on_gpu, pick_device
from stages.prepare.geometry import Box
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from stages.prepare.pixels import read_raw, read_train_ids, resize_image, resize_label
from stages.student.rein_vfm import PATCH_PX, ReinBackbone, frozen_facts, frozen_sha256, taps_of
from stages.train.config import TrainConfig
from stages.train.crops import VIEW_STREAM, View, labelled_images, pixels_of, varied_box
from store.codec import EXACT
from store.errors import StoreError, StoreMismatchError, StoreMissingError, StoreUnreadableError
from store.files import Url, join
from store.fingerprint import sha256
from store.lease import WHOLE, Part
from store.read import FeatureReader
from store.spec import COARSEST_STRIDE_PX, ImageEntry, Level, Size, StoreSpec
from store.write import StoreWriter

PREFIX: Final = "prefix"
"""The level, and the folder of these stores."""

PREFIX_VERSION: Final = 1
"""Raise it when a change of code changes what is stored of the same views."""

_SHARD_VIEWS: Final = 16
_NAME: Final = re.compile(r"(.+)@([0-9]+),([0-9]+)(m?)")


@dataclass(frozen=True)
class Prefixes:
    """What training reads: the views of each image, by its id, and what was stored of them."""

    reader: FeatureReader
    views: Mapping[str, Sequence[View]]

    def read(self, record: ImageRecord, view: View) -> NDArray[np.float32]:
        """Read (C, rows, columns), one token after the other and zeros behind them."""
        name = _name(record, view)
        size_tok = self.reader.size_tok(name, PREFIX)
        found: NDArray[np.float32] = self.reader.window(name, PREFIX, 0, 0, *size_tok)
        return found


def open_prefixes(config: TrainConfig, stores: Url, manifest: Manifest) -> Prefixes | None:
    """Open the store of a run's prefixes; None where `rein.views` does not ask for them.

    Raises:
        CheckpointError: The frozen network is missing or damaged.
        StoreError: There is no such store, it is of something else, or lacks images.
    """
    if not config.reads_prefixes:
        return None
    spec = prefix_spec(config)
    url, records = join(stores, spec.relative_path), labelled_images(manifest)
    reader, current = FeatureReader(url), {record.image_id: record.content for record in records}
    try:
        views = _views_by_image(reader, config.crop_px, current)
    except StoreMissingError as error:
        raise StoreMissingError(
            f"{url}: there are no prefixes of these params: run `ssr embed`"
        ) from error
    if absent := [record.image_id for record in records if record.image_id not in views]:
        raise StoreMismatchError(f"{url} has no view of {absent[0]}: run `ssr embed`")
    contents = {_name(r, view): r.content for r in records for view in views[r.image_id]}
    reader.check(levels=[PREFIX], images=contents, fingerprint=spec.fingerprint)
    return Prefixes(reader, views)


def prefix_spec(config: TrainConfig, *, weights_sha256: str | None = None) -> StoreSpec:
    """Specify the store of a run's prefixes: its name depends on all that they depend on.

    Without `weights_sha256`, that of the frozen network, all its weights are read.

    Raises:
        CheckpointError: The frozen network is missing or damaged.
    """
    rein = config.student.rein
    assert rein is not None
    folder = Path(config.student.weights).expanduser()
    facts = frozen_facts(folder)
    columns = config.crop_px // PATCH_PX
    early = sum(tap < rein.from_block - 1 for tap in taps_of(facts.depth))
    rows = -(-(facts.prefix + columns**2 * (1 + early)) // columns)
    height_px = -(-rows * PATCH_PX // COARSEST_STRIDE_PX) * COARSEST_STRIDE_PX
    return StoreSpec(
        domain=PREFIX,
        levels={PREFIX: Level(PATCH_PX, facts.channels[0])},
        grid_px=(height_px, config.crop_px),
        shard_images=_SHARD_VIEWS,
        codec=EXACT,
        provenance={
            "teacher": {
                "architecture": facts.model_type,
                "weights_sha256": weights_sha256 or frozen_sha256(folder),
                "trained": True,
            },
            "from_block": rein.from_block,
            "native_px": rein.native_px,
            "precision": config.precision,
            "matmul": config.matmul,
            "views": {
                "most": rein.views,
                "seed": config.seed,
                "crop_px": config.crop_px,
                "crop_align_px": config.crop_align_px,
                "crop_max_class_share": config.crop_max_class_share,
                "flip_probability": config.flip_probability,
            },
            "version": PREFIX_VERSION,
        },
    )


def store_prefixes(
    config: TrainConfig,
    *,
    manifest: Manifest,
    roots: Mapping[Domain, Path],
    stores: Url,
    progress: Callable[[int, int, str], None],
    part: Part = WHOLE,
    list_only: bool = False,
) -> int:
    """Bring the store of a run's prefixes up to date; return how many views were stored now.

    It goes on where it was interrupted. Views that the store lists stay. In job arrays each `part`
    stores its own shards of a store that was made with `list_only`, which stores nothing else.

    Raises:
        CheckpointError: The frozen network is missing or damaged.
        ConfigError: It has fewer blocks than `from_block`, or a device is missing.
        DataError: An image or label is missing or damaged.
        StoreError: The store is in use or cannot be written.
    """
    spec = prefix_spec(config)
    wanted = _draw_views(config, manifest, roots, join(stores, spec.relative_path))
    entries = [
        ImageEntry(name, record.content, spec.grid_px) for name, (record, _) in wanted.items()
    ]
    with (
        StoreWriter(stores, spec, entries, [PREFIX], part=part) as writer,
        cpu_threads(config.threads),
        float32_on_gpu(config.matmul),
    ):
        tasks = [] if list_only else writer.pending()
        todo = [e.image_id for task in tasks for e in task.images if e is not None]
        if todo:
            tokens = _begin(config, [wanted[name] for name in todo], roots, spec.grid_px)
            done = 0
            for task in tasks:
                features: dict[str, NDArray[np.float32]] = {}
                for entry in filter(None, task.images):
                    features[entry.image_id] = next(tokens)
                    done += 1
                    progress(done, len(todo), "views")
                writer.write_shard(task, {PREFIX: features})
    return len(todo)


def _draw_views(
    config: TrainConfig, manifest: Manifest, roots: Mapping[Domain, Path], url: Url
) -> dict[str, tuple[ImageRecord, View]]:
    """Return views by name: those that the store has, and new ones of images that it lacks.

    New ones depend on the config and the image alone. Equal ones count once, so that a small image
    may have fewer.
    """
    rein, records = config.student.rein, labelled_images(manifest)
    assert rein is not None
    assert rein.views is not None
    try:
        current = {record.image_id: record.content for record in records}
        known = _views_by_image(FeatureReader(url), config.crop_px, current)
    except StoreUnreadableError:
        raise
    except StoreError:
        known = {}
    found: dict[str, tuple[ImageRecord, View]] = {}
    for record in records:
        views: Sequence[View] = known.get(record.image_id, ())
        if not views:
            label = resize_label(
                read_train_ids(record, roots[record.domain], manifest.labels[record.domain]),
                record.resized_size_px,
            )
            number = int(sha256(record.image_id.encode())[:16], 16)
            rng = np.random.default_rng((config.seed, VIEW_STREAM, number))
            views = [
                View(
                    varied_box(rng, record, label, config),
                    bool(rng.random() < config.flip_probability),
                )
                for _ in range(rein.views)
            ]
        found |= {_name(record, view): (record, view) for view in views}
    return found


@torch.no_grad()
def _begin(
    config: TrainConfig,
    views: Sequence[tuple[ImageRecord, View]],
    roots: Mapping[Domain, Path],
    grid_px: Size,
) -> Iterator[NDArray[np.float32]]:
    """Run the blocks on one view after the other; yield (C, rows, columns) of each.

    Batches are as large as in training, the last one filled up: last bits can depend on it.
    """
    rein, size = config.student.rein, config.micro_batch_size or config.batch_size
    assert rein is not None
    device = pick_device(config.device, "train.device")
    backbone = ReinBackbone(Path(config.student.weights).expanduser(), rein).to(device)
    rows, columns = (side // PATCH_PX for side in grid_px)
    seen: tuple[ImageRecord, NDArray[np.uint8]] | None = None
    for start in range(0, len(views), size):
        batch = []
        for record, view in views[start : start + size]:
            if seen is None or seen[0] is not record:  # views of an image are neighbours
                raw = read_raw(record, roots[record.domain])
                seen = record, resize_image(raw, record.resized_size_px)
            batch.append(torch.from_numpy(pixels_of(seen[1], view)))
        images = torch.stack([*batch, *[batch[-1]] * (size - len(batch))]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision != "float32"):
            begun = torch.cat(backbone.begin(images), dim=1)  # (B, T, C)
        assert begun.dtype == torch.float32, "else training would go on from other numbers"
        for tokens in begun[: len(batch)].cpu().numpy():
            packed = np.zeros((tokens.shape[1], rows * columns), np.float32)
            packed[:, : len(tokens)] = tokens.T
            yield packed.reshape(-1, rows, columns)


def _views_by_image(
    reader: FeatureReader, side_px: int, current: Mapping[str, str]
) -> dict[str, list[View]]:
    """List views of images whose contents, by id, are still those."""
    views: dict[str, list[View]] = {}
    for slot in reader.header.slots:
        parts = _NAME.fullmatch(slot.image.image_id)
        if slot.live and parts and current.get(parts[1]) == slot.image.content:
            box = Box(int(parts[2]), int(parts[3]), side_px, side_px)
            views.setdefault(parts[1], []).append(View(box, bool(parts[4])))
    return views


def _name(record: ImageRecord, view: View) -> str:
    return f"{record.image_id}@{view.box.y},{view.box.x}{'m' if view.mirrored else ''}"
