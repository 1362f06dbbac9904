"""Levels that are not the teacher's own: principal components, and levels of mirrored images."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.embed.config import EmbedConfig
from stages.prepare.pixels import MEAN
from store.codec import Projection
from store.errors import StoreError
from store.read import FeatureReader
from store.spec import upright
from store.summary import inspect, open_dataset
from store.verify import discard, verify
from tests.embed.test_teachers import hf_teacher, save_model, with_teacher
from tests.embed.world import World

CHANNELS = 12


@pytest.fixture(params=["sam", "dinov2"])
def pictures(request: pytest.FixtureRequest, tmp_path: Path, embed_config: EmbedConfig) -> World:
    """Two images that are not square, to be embedded in both orientations."""
    if request.param == "dinov2":
        folder = save_model("dinov2", tmp_path / "model")
        embed_config = with_teacher(embed_config, hf_teacher(folder, "dinov2", taps=("last",)))
    flips = {"flips": ("none", "horizontal")}
    world = World(tmp_path / "all", embed_config.model_copy(update=flips), shard_images=1)
    world.folder.mkdir()
    world.add("street", (120, 200), seed=1)
    world.add("other", (96, 64), seed=2)
    return world


def reduced(world: World, name: str, codec: str, *, whiten: bool = False) -> World:
    twin = world.twin(world.folder.parent / name)
    return replace(twin, codec=codec, projection=Projection(CHANNELS, whiten))


@pytest.mark.parametrize(("codec", "whiten"), [("float16", True), ("int8", False)])
def test_the_store_holds_projected_features_also_after_a_kill(
    pictures: World, codec: str, whiten: bool
) -> None:
    world = reduced(pictures, "reduced", codec, whiten=whiten)
    twin = world.twin(pictures.folder.parent / "twin")

    def interrupt(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        twin.run(interrupt)
    path, full = (w.run().path for w in (world, pictures))
    twin.run()
    assert twin.features() == world.features()
    assert verify(path).sound
    dataset, every, summary = open_dataset(path), open_dataset(full), inspect(path)
    for level in world.config.stored_levels:
        tokens = every[level].astype(np.float32)  # (image, C, y, x)
        stored = dataset[level].astype(np.float32)
        assert stored.shape[1] == CHANNELS
        basis, mean = (dataset[f"{name}_{upright(level)}"].values for name in ("basis", "mean"))
        wanted = np.einsum("nc,icyx->inyx", basis, tokens.values - mean[:, None, None])
        near = 0.06 if codec == "int8" else 0.01
        np.testing.assert_allclose(stored.values, wanted, atol=near * np.nanstd(wanted) * 3)
        if level != upright(level):
            continue
        channels, explained = summary.levels[level].projection or (0, 0.0)
        assert channels == len(mean)
        if not whiten:
            kept, all_of_it = (np.nanvar(x, (0, 2, 3)).sum() for x in (wanted, tokens.values))
            np.testing.assert_allclose(explained, kept / all_of_it, rtol=1e-3)


def test_levels_of_mirrored_images_are_those_of_the_mirrored_picture(
    pictures: World, tmp_path: Path
) -> None:
    mirrored = World(tmp_path / "mirrored", pictures.config, shard_images=1)
    (mirrored.folder / "images").mkdir(parents=True)
    for image_id, record in pictures.records.items():
        (height, width), (working, wide) = record.raw_size_px, record.working_size_px
        canvas = np.full((working, wide, 3), np.rint(MEAN), np.uint8)
        canvas[:height, :width] = np.array(Image.open(pictures.folder / "images" / record.image))
        path = mirrored.folder / "images" / f"{image_id.rpartition('/')[2]}.png"
        Image.fromarray(canvas[:, ::-1]).save(path)
        mirrored.list(path, (working, wide))
    ours, theirs = (FeatureReader(w.run().path) for w in (pictures, mirrored))
    for image_id, level in product(pictures.records, pictures.config.levels):
        window = 0, 0, *ours.size_tok(image_id, level)
        wanted = theirs.window(image_id, level, *window)[..., ::-1].astype(np.float32)
        stored = ours.window(image_id, f"{level}_flipped", *window).astype(np.float32)
        plain = ours.window(image_id, level, *window).astype(np.float32)
        # the mean colour is no whole number, so padding differs a little
        near = 1e-3 if image_id.endswith("other") else 0.03
        assert np.abs(stored - wanted).mean() < near * np.abs(wanted).mean()
        assert np.abs(plain - wanted).mean() > 5 * np.abs(stored - wanted).mean()


def test_flips_that_are_added_leave_all_that_was_stored(pictures: World) -> None:
    pictures.run(flips=("none",))
    before = pictures.features()
    assert not any("_flipped" in name for name in before)
    assert pictures.run().embedded == 2
    after = pictures.features()
    shards = [name for name in before if "/c.0" in name or "/c.1" in name]
    assert len(shards) > 4
    assert all(after[name] == before[name] for name in shards if "image/" not in name)
    assert verify(pictures.run().path).sound


def test_a_basis_holds_for_ever_and_is_found_again_where_it_was_lost(pictures: World) -> None:
    world = reduced(pictures, "reduced", "int8")
    path = world.run().path
    before = world.features()
    assert isinstance(path, Path)
    (path / "basis_stride8/c.0.0").write_bytes(b"damaged")
    found = verify(path)
    assert [one.file for one in found.damage] == ["basis_stride8/c.0.0"]
    with pytest.raises(StoreError, match=r"basis_stride8/c\.0.* of the store|mean_stride8"):
        inspect(path)
    discard(path, found.damage)
    (path / "scale_stride8/c.0").write_bytes(b"of another basis")
    world.run()
    assert world.features() == before
    world.add("new", (64, 64), seed=9)
    assert world.run().embedded == 1
    kept = {n: d for n, d in before.items() if "/basis_" in n or "/c.0.0.0.0" in n}
    assert kept.items() <= world.features().items()
