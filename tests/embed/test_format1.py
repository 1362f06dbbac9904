"""A store that the code of format 1 wrote: kept, read, completed and recognised by its teacher.

`format1.tar.xz` is what commit bb3e72a made of two images of 32 px by `examples/drawn/teacher.pth`
under int8-zstd, in shards of two: `images`, `features` and `index.json`.
"""

from pathlib import Path
from shutil import unpack_archive

import numpy as np
import pytest

from examples.drawn import TEACHER
from stages.embed.config import EmbedConfig
from stages.embed.stores import require_provenance
from store.errors import StoreMismatchError
from store.index import Index
from store.read import FeatureReader, open_features
from store.verify import verify
from tests.embed.world import World, changed

ARCHIVE = Path(__file__).parent / "format1.tar.xz"


@pytest.fixture
def old(tmp_path: Path, embed_config: EmbedConfig) -> World:
    unpack_archive(ARCHIVE, tmp_path)
    config = changed(embed_config, weights=str(TEACHER))
    world = World(tmp_path, config, shard_images=2, codec="int8-zstd")
    for path in sorted((tmp_path / "images").iterdir()):
        world.list(path, (32, 32))
    (tmp_path / "index.json").rename(world.index_path)
    return world


def test_it_is_kept_to_the_byte_and_read_and_verified(old: World) -> None:
    before = old.features()
    assert old.run().embedded == 0
    assert old.features() == before
    assert [path.name for path in (old.store_url / "source").iterdir()] == ["9b268ca6.zarr"]
    index = Index.read(old.index_path)
    contents = {record.image_id: record.content for record in old.manifest.records}
    reader = open_features(old.store_url, index, "source", levels=["stride8"], images=contents)
    assert reader.window("source/train/0", "stride8", 0, 0, 4, 4).shape == (64, 4, 4)
    report = verify(old.store_url / index.stores["source"].path)
    assert (report.sound, report.shards) == (True, 1)


def test_it_is_completed_in_format_1(old: World) -> None:
    before = old.features()
    old.add("new", (32, 32))
    done = old.run(levels=("stride8", "stride16"))
    assert done.embedded == 3
    after, shard = old.features(), "c.0.0.0.0"
    same = [name for name in before if name.endswith((f"stride8/{shard}", "stride8/c.0"))]
    assert len(same) == 2
    assert all(after[name] == before[name] for name in same)
    header = FeatureReader(done.path).header
    assert (header.spec.format, header.levels) == (1, ("stride8", "stride16"))
    assert verify(done.path).sound


def test_what_was_lost_of_it_is_embedded_again_as_it_was(old: World) -> None:
    path = old.store_url / Index.read(old.index_path).stores["source"].path
    exact = FeatureReader(path).window("source/train/1", "stride8", 0, 0, 4, 4)
    (path / "stride8/c.0.0.0.0").unlink()
    assert old.run().embedded == 2
    again = FeatureReader(path).window("source/train/1", "stride8", 0, 0, 4, 4)
    np.testing.assert_allclose(again, exact, atol=0.05)  # a code or so on another processor


def test_another_teacher_gets_a_store_of_its_own(old: World) -> None:
    before = old.features()
    done = old.run(weights="random")
    assert done.embedded == 2
    assert FeatureReader(done.path).header.spec.format == 2
    after = old.features()
    kept = [name for name in before if "9b268ca6" in name]
    assert all(after[name] == before[name] for name in kept)


def test_training_accepts_it_under_its_own_teacher_alone(old: World) -> None:
    found = Index.read(old.index_path).stores["source"].provenance
    for same in (old.config, changed(old.config, weights="absent.pth")):
        require_provenance(same, None, found, where="it")
    with pytest.raises(StoreMismatchError, match="another tiling"):
        require_provenance(changed(old.config, overlap=0.25), None, found, where="it")
    with pytest.raises(StoreMismatchError, match="another teacher"):
        require_provenance(changed(old.config, weights="random"), None, found, where="it")
