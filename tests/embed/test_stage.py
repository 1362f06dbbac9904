"""The stage does what is missing, nothing else, and ends with the same bytes."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stages.embed.config import EmbedConfig
from stages.embed.planned import provenance
from stages.embed.teachers import sam_encoder as teacher_module
from stages.embed.teachers.sam_encoder import PREFIX, SamEncoder, draw_encoder
from stages.embed.teachers.sam_sizes import ARCHITECTURES
from store.errors import CheckpointError, DataError, StoreError
from store.index import Index
from store.read import FeatureReader
from store.shard_writer import ShardTask
from store.write import StoreWriter
from tests.embed.world import World, changed


def shard_times(world: World) -> dict[str, int]:
    """When each shard file of any store was written."""
    files = world.store_url.rglob("c.*.0.0.0")
    return {str(path.relative_to(world.store_url)): path.stat().st_mtime_ns for path in files}


def save_weights(path: Path, seed: int) -> None:
    encoder = draw_encoder(ARCHITECTURES["tiny"], seed).state_dict()
    torch.save({PREFIX + key: value for key, value in encoder.items()}, path)


def test_all_images_are_embedded_and_reported(world: World) -> None:
    calls: list[tuple[int, int, str]] = []
    result = world.run(lambda *call: calls.append(call))
    done = result.domains["source"]
    assert (done.images, done.embedded) == (5, 5)
    assert done.images_per_second > 0
    assert calls == [(i, 5, "source") for i in range(1, 6)]
    assert result.index_path is not None
    entry = Index.read(result.index_path).stores["source"]
    assert world.store_url / entry.path == done.path
    assert entry.fingerprint == done.fingerprint
    assert set(entry.levels) == {"stride8"}


def test_a_second_run_changes_nothing_and_loads_no_teacher(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run()
    before, times = world.features(), shard_times(world)
    monkeypatch.delattr(teacher_module, "SamEncoder")
    result = world.run(progress=lambda *call: pytest.fail(f"progress {call}"))
    assert result.domains["source"].embedded == 0
    assert world.features() == before
    assert shard_times(world) == times


def test_a_second_run_does_not_even_import_torch(world: World) -> None:
    world.run()
    world.manifest.write(world.folder / "manifest.parquet")
    run_elsewhere(world, "import sys; assert 'torch' not in sys.modules; assert not calls")


def test_an_interrupted_run_ends_with_the_same_bytes(world: World, tmp_path: Path) -> None:
    undisturbed = world.twin(tmp_path / "twin")
    undisturbed.run()

    def interrupt(done: int, total: int, what: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.run(interrupt)
    assert not world.index_path.exists()
    assert len(shard_times(world)) == 1
    result = world.run()
    assert result.domains["source"].embedded == 3
    assert world.features() == undisturbed.features()


def test_a_killed_run_ends_with_the_same_bytes(world: World, tmp_path: Path) -> None:
    undisturbed = world.twin(tmp_path / "twin")
    undisturbed.run()
    world.manifest.write(world.folder / "manifest.parquet")
    run_elsewhere(world, "", kill_at=5)  # of five: the first shard is written, perhaps the second
    assert len(shard_times(world)) in (1, 2)
    assert world.run().domains["source"].embedded in (1, 3)
    assert world.features() == undisturbed.features()


def test_adding_a_level_leaves_the_others_alone(world: World) -> None:
    first = world.run()
    times = shard_times(world)
    second = world.run(levels=("stride8", "stride32"))
    assert second.domains["source"].path == first.domains["source"].path
    assert {k: v for k, v in shard_times(world).items() if "stride8" in k} == times
    levels = Index.read(world.index_path).stores["source"].levels
    assert {name: len(level.shards) for name, level in levels.items()} == {
        "stride8": 3,
        "stride32": 3,
    }


def test_levels_embedded_together_or_one_by_one_are_the_same_bytes(
    world: World, tmp_path: Path
) -> None:
    together = world.twin(tmp_path / "twin")
    together.run(levels=("stride8", "stride16"))
    world.run(levels=("stride16",))
    world.run(levels=("stride16", "stride8"))
    assert world.features() == together.features()


def test_adding_an_image_embeds_one_shard(world: World) -> None:
    world.run()
    times = shard_times(world)
    world.add("f", seed=99)
    assert world.run().domains["source"].embedded == 2  # e and f share the last shard
    assert sum(shard_times(world)[name] != time for name, time in times.items()) == 1


def test_a_changed_image_embeds_its_shard_anew(world: World) -> None:
    world.run()
    times = shard_times(world)
    world.add("c", seed=99)
    assert world.run().domains["source"].embedded == 2
    changed = [name for name, time in shard_times(world).items() if times[name] != time]
    assert [name.rsplit("/")[-1] for name in changed] == ["c.1.0.0.0"]


def test_a_lost_shard_is_embedded_again_to_the_same_bytes(world: World) -> None:
    path = Path(world.run().domains["source"].path)
    before = world.features()
    (path / "stride8" / "c.1.0.0.0").unlink()
    assert world.run().domains["source"].embedded == 2
    assert world.features() == before


def test_codes_of_8_bits_are_close_to_the_features_and_resume_under_the_same_scale(
    world: World,
) -> None:
    exact = FeatureReader(world.run().domains["source"].path)
    world.codec = "int8"
    path = Path(world.run().domains["source"].path)
    before = world.features()
    for image_id in world.records:
        window = (image_id, "stride8", 0, 0, *exact.size_tok(image_id, "stride8"))
        wanted, found = exact.window(*window), FeatureReader(path).window(*window)
        assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    (path / "stride8" / "c.1.0.0.0").unlink()
    assert world.run().domains["source"].embedded == 2
    assert world.features() == before


def test_another_teacher_makes_a_store_beside_the_old(world: World) -> None:
    old = Path(world.run().domains["source"].path)
    before = {k: v for k, v in world.features().items() if old.name in k}
    new = Path(world.run(seed=9).domains["source"].path)
    assert new != old
    assert {k: v for k, v in world.features().items() if old.name in k} == before
    assert Index.read(world.index_path).stores["source"].path.endswith(new.name)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"overlap": 0.25}, False),
        ({"precision": "bfloat16"}, False),
        ({"architecture": "vit_b"}, False),
        ({"weights": "file.pth"}, False),
        ({"batch_tiles": 1, "device": "auto", "seed": 77, "levels": ("stride32",)}, True),
        ({"compile": True, "threads": 7}, True),
    ],
)
def test_provenance_tells_all_that_features_depend_on_and_nothing_else(
    change: dict[str, Any], same: bool, embed_config: EmbedConfig
) -> None:
    def about(config: EmbedConfig, weights: str = "ab") -> dict[str, Any]:
        return provenance(config, config.teacher.identity({"weights_sha256": weights}), None)

    assert (about(changed(embed_config, **change)) == about(embed_config)) is same
    assert about(embed_config) != about(embed_config, "cd")
    json.dumps(about(embed_config))


def test_the_number_of_tiles_per_pass_hardly_matters(world: World, tmp_path: Path) -> None:
    single, many = world.twin(tmp_path / "single"), world
    for one, tiles in ((single, 1), (many, 16)):
        one.add("wide", (128, 320), seed=6)
        one.run(batch_tiles=tiles)
    stores = [next(w.store_url.glob("source/*.zarr")) for w in (single, many)]
    import zarr

    a, b = (np.asarray(zarr.open_array(store / "stride8")[:]) for store in stores)
    np.testing.assert_allclose(a, b, rtol=2**-10, atol=2e-5)


def test_batches_mix_images_but_never_shards_or_levels(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    start = teacher_module.SamEncoder.start

    def count(
        encoder: SamEncoder, tiles: Sequence[Tensor], levels: Sequence[str]
    ) -> dict[str, Tensor]:
        seen.append(len(tiles))
        return start(encoder, tiles, levels)

    monkeypatch.setattr(teacher_module.SamEncoder, "start", count)
    world.add("e", (128, 320), seed=6)
    world.run(batch_tiles=4, levels=("stride8", "stride16"))  # 1 tile per image and level; e: 3, 2
    assert seen == [2, 2, 2, 2, 3, 2]


def test_other_shards_do_not_change_the_bytes_of_one(world: World, tmp_path: Path) -> None:
    """What a shard holds is its own: parts of a store may be made by different runs."""
    grown = world.twin(tmp_path / "twin")
    first, last = sorted(world.records)[:2], sorted(world.records)[2:]
    kept = {name: grown.records[name] for name in last}
    grown.records = {name: grown.records[name] for name in first}
    grown.run(batch_tiles=3)
    grown.records |= kept
    assert grown.run(batch_tiles=3).domains["source"].embedded == 3
    world.run(batch_tiles=3)
    assert grown.features() == world.features()


def test_a_run_leaves_no_threads_and_no_thread_count_behind(world: World) -> None:
    world.add("e", seed=5)
    (world.folder / "images" / "e.png").write_bytes(b"changed")
    before, count = set(threading.enumerate()), torch.get_num_threads()
    with pytest.raises(DataError, match=r"e\.png: has changed"):
        world.run(threads=count + 1)
    assert set(threading.enumerate()) == before
    assert torch.get_num_threads() == count
    assert len(shard_times(world)) == 2


def test_a_full_disk_ends_the_run_in_one_line_and_the_next_run_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    undisturbed = world.twin(tmp_path / "twin")
    undisturbed.run()
    write = StoreWriter.write_shard

    def full(writer: StoreWriter, task: ShardTask, *features: Any) -> None:  # noqa: ANN401
        if task.shard == 1:
            raise StoreError("no space left")
        write(writer, task, *features)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write_shard", full)
        with pytest.raises(StoreError, match="no space left"):
            world.run()
    assert world.run().domains["source"].embedded == 3
    assert world.features() == undisturbed.features()


def test_an_untrained_teacher_is_called_so(world: World, caplog: pytest.LogCaptureFixture) -> None:
    result = world.run()
    assert not result.trained
    assert "UNTRAINED TEACHER" in caplog.text
    entry = Index.read(world.index_path).stores["source"]
    assert isinstance(entry.provenance["teacher"], dict)
    assert entry.provenance["teacher"]["trained"] is False


def test_a_teacher_from_a_file_is_known_by_its_weights(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    file, copy = world.folder / "one.pth", world.folder / "copy.pth"
    save_weights(file, seed=5)
    first = world.run(weights=str(file))
    assert first.trained
    assert "UNTRAINED" not in caplog.text
    shutil.copy(file, copy)
    same = world.run(weights=str(copy)).domains["source"]
    assert (same.path, same.embedded) == (first.domains["source"].path, 0)
    save_weights(file, seed=6)
    assert world.run(weights=str(file)).domains["source"].path != same.path


def test_a_missing_weight_file_is_named(world: World) -> None:
    with pytest.raises(CheckpointError, match=r"sam\.pth: no such weight file"):
        world.run(weights="sam.pth")


def test_an_image_that_changed_behind_the_manifest_s_back_is_refused(world: World) -> None:
    path = world.folder / "images" / "b.png"
    Image.new("RGB", (128, 96)).save(path)
    with pytest.raises(DataError, match=r"b\.png: has changed .*ssr prepare"):
        world.run()
    path.unlink()
    with pytest.raises(DataError, match=r"b\.png: cannot be read"):
        world.run()


@pytest.mark.parametrize("change", [{"domains": ("target",)}, {"splits": ("val",)}])
def test_a_domain_or_split_without_images_is_refused(change: Any, world: World) -> None:  # noqa: ANN401
    with pytest.raises(DataError, match="the manifest has no"):
        world.run(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"levels": ["stride8", "stride8"]},
        {"levels": []},
        {"overlap": 0.6},
        {"batch_tiles": 0},
        {"teacher": {"kind": "sam", "architecture": "vit_x", "weights": "random", "seed": 0}},
        {"precison": "float32"},
    ],
)
def test_the_config_refuses_what_makes_no_sense(
    change: dict[str, Any], embed_config: EmbedConfig
) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        EmbedConfig.model_validate(embed_config.model_dump() | change)


def run_elsewhere(world: World, afterwards: str, kill_at: int = 0) -> None:
    """Run the stage in a process of its own, which may kill itself after an image."""
    script = f"""
import os, signal
from pathlib import Path
from stages.embed.config import EmbedConfig
from stages.embed.stage import run
from stages.prepare.manifest import Manifest
calls = []
def progress(*call):
    calls.append(call)
    if len(calls) == {kill_at}:
        os.kill(os.getpid(), signal.SIGKILL)
folder = Path({str(world.folder)!r})
run(
    EmbedConfig.model_validate_json({world.config.model_dump_json()!r}),
    manifest=Manifest.read(folder / "manifest.parquet"),
    roots={{"source": folder / "images"}},
    store_url=folder / "features",
    shard_images={world.shard_images},
    codec="float16",
    index_path=folder / "features.json",
    progress=progress,
)
{afterwards}
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode == (-signal.SIGKILL if kill_at else 0)
