"""Stored prefixes of a frozen ViT: training that goes on from them is the training without."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.prepare.manifest import Manifest
from stages.student.student import load_student
from stages.train.config import TrainConfig
from stages.train.crops import TrainingCrops, batches
from stages.train.prefix import Prefixes, open_prefixes, store_prefixes
from stages.train.step import train_step
from store.errors import SSRError
from tests.train.test_rein_vfm import BLOCKS, MODELS, build, config, save_vit
from tests.train.world import World, assert_same, results, silent


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return save_vit(tmp_path / "vit")


@pytest.fixture
def stored(world: World, tmp_path: Path) -> World:
    """The world without prefixes of other tests."""
    return world.copy(tmp_path / "world")


def cached(vit: Path, **changes: Any) -> TrainConfig:  # noqa: ANN401
    rein = {"from_block": 2, "views": 3} | changes.pop("rein", {})
    return config(vit, rein=rein, self_training=None, iterations=3, **changes)


def store(world: World, asked: TrainConfig, manifest: Manifest | None = None) -> int:
    return store_prefixes(
        asked,
        manifest=manifest or world.manifest,
        roots=world.roots,
        stores=world.store_url,
        progress=silent,
    )


def crops_of(world: World, asked: TrainConfig) -> TrainingCrops:
    prefixes = open_prefixes(asked, world.store_url, world.manifest)
    return TrainingCrops(
        config=asked, manifest=world.manifest, roots=world.roots, readers={}, prefixes=prefixes
    )


@pytest.mark.parametrize(
    ("kind", "from_block"),
    [("dinov2", 1), ("dinov2", BLOCKS), *((kind, 2) for kind in MODELS)],
)
def test_logits_and_gradients_are_those_without_a_cache_to_the_bit(
    stored: World, tmp_path: Path, kind: str, from_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = save_vit(tmp_path / kind, kind)
    asked = cached(vit, rein={"from_block": from_block})
    assert len(stored.records("source")) < store(stored, asked) <= 3 * len(stored.records("source"))
    crops = crops_of(stored, asked)
    found: list[Any] = []
    for _ in range(2):
        torch.manual_seed(0)  # of dropout
        cpu = torch.device("cpu")
        batch = next(batches(crops, asked, start=0, device=cpu)).to(cpu)
        state = stored.state(asked)
        student = state.models.student
        with torch.no_grad():
            logits = student.decode(student.see(batch.source_image, begun=batch.source_begun))
        losses = train_step(state.models, batch, None, config=asked, iteration=0).losses
        gradients = {name: weight.grad for name, weight in student.named_parameters()}
        found.append([logits, batch.source_label, losses, gradients])
        assert (batch.source_begun is None) == bool(batch.source_image.any())
        monkeypatch.setattr(Prefixes, "read", lambda *_: None)
    assert any(gradient.any() for gradient in found[0][3].values())
    assert_same(*found)


@pytest.mark.parametrize("tune", ["tokens", "lora", "all"])
def test_a_run_on_stored_prefixes_ends_with_the_weights_of_one_without(
    stored: World, vit: Path, tmp_path: Path, tune: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare = {"temperature": 0.1, "min_pixels": 1, "min_crop_ratio": 0.5}
    asked = cached(vit, rein={"tune": tune}, rare_class_sampling=rare)
    store(stored, asked)
    stored.train(asked.model_copy(update={"workers": int(tune == "all")}), tmp_path / "cached")
    monkeypatch.setattr(Prefixes, "read", lambda *_: None)
    stored.train(asked, tmp_path / "uncached")
    assert_same(results(tmp_path / "cached"), results(tmp_path / "uncached"))
    student, images = load_student(tmp_path / "cached/student")[0], torch.randn(1, 3, 64, 64)
    start = build(vit, rein={"from_block": 2, "tune": "none"}).eval()
    assert not torch.equal(student.features(images)[3], start.features(images)[3])


def test_views_differ_and_are_listed_and_stay_when_images_come(vit: Path, tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    world.prepare(images=2, target=False)
    asked = cached(vit, rein={"views": 4}, flip_probability=0.5)
    assert 2 < store(world, asked) <= 8
    before = open_prefixes(asked, world.store_url, world.manifest)
    assert before is not None
    assert all(len(set(each)) > 1 for each in before.views.values())
    world.prepare(images=3, target=False)
    with pytest.raises(SSRError, match=r"has no view of source/.*: run `ssr embed`"):
        open_prefixes(asked, world.store_url, world.manifest)
    assert store(world, asked)
    assert store(world, asked) == 0
    after = open_prefixes(asked, world.store_url, world.manifest)
    assert after is not None
    assert {**after.views, **before.views} == after.views
    assert len(after.views) == 3
    next(world.store_url.glob("prefix/*.zarr/prefix/c.0.*")).unlink()
    with pytest.raises(SSRError, match="run `ssr embed`"):
        open_prefixes(asked, world.store_url, world.manifest)


@pytest.mark.parametrize(
    "changes", [{"rein": {"from_block": 1}}, {"seed": 1}, {"precision": "bfloat16"}], ids=str
)
def test_prefixes_of_something_else_are_refused(
    stored: World, vit: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    store(stored, cached(vit))
    with pytest.raises(SSRError, match="there are no prefixes of these params: run `ssr embed`"):
        stored.train(cached(vit, **changes), tmp_path / "run")


def test_an_image_that_changed_is_refused_until_it_has_views_of_its_own(
    stored: World, vit: Path
) -> None:
    asked, manifest = cached(vit), stored.manifest
    store(stored, asked)
    size: dict[str, Any] = {"resized_size_px": (60, 60), "working_size_px": (64, 64)}
    changed, squeezed = (
        replace(manifest, records=tuple(replace(each, **changes) for each in manifest.records))
        for changes in ({"sha256": "0" * 64}, size)
    )
    for other in (changed, squeezed):
        with pytest.raises(SSRError, match="run `ssr embed`"):
            open_prefixes(asked, stored.store_url, other)
    store(stored, asked, squeezed)
    found = open_prefixes(asked, stored.store_url, squeezed)
    assert found is not None
    assert {view.box.x for views in found.views.values() for view in views} == {0}
