"""Self-training learns from labels of the store, alone or where the averaged model agrees."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stages.train import loop
from stages.train.config import TrainConfig
from stages.train.stage import open_labels
from stages.train.step import StepResult
from store.errors import ConfigError, SSRError
from store.index import Index, labels_beside
from tests.train.example import MASKING, STILL, train_config
from tests.train.test_crops import CROP, locate
from tests.train.test_graphs import Rerun
from tests.train.test_step import CLASSES, SIDE, batch_of, models_for, step
from tests.train.world import World, assert_same, results

Labels = Literal["ema", "store", "agree"]

ALIKE: dict[str, Any] = {
    "regularizer": {"on": []},
    "student": STILL,
    "masking": MASKING,
}
CLEAR = {"jitter_probability": 0.0, "blur_probability": 0.0}


def labelled(shares: Tensor, labels: Labels, **changes: Any) -> StepResult:  # noqa: ANN401
    """Take the first step with stored probabilities (B, K, h, w)."""
    config = train_config(**ALIKE, self_training={**CLEAR, "labels": labels, **changes})
    models = models_for(config)
    models = replace(models, ema=None) if labels == "store" else models
    stored = None if labels == "ema" else shares
    return step(config, models, replace(batch_of(), target_probabilities=stored))


@pytest.fixture(scope="module")
def shares() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, CLASSES, 4, 4, generator=generator).mul(3).softmax(1).half()


def test_pseudo_labels_and_weights_are_those_of_the_store_between_its_tokens(
    shares: Tensor,
) -> None:
    finer = interpolate(shares.float(), (SIDE, SIDE), mode="bilinear", align_corners=False)
    probability, label = finer.max(1)
    valid = batch_of().target_valid
    for weight, confidence in (
        ("pixel", probability),
        ("share", (probability >= 0.5).float().mean()),
    ):
        found = labelled(shares, "store", weight=weight)
        assert found.pseudo is not None
        assert found.mixed is not None
        assert torch.equal(found.pseudo.label, label)
        torch.testing.assert_close(found.pseudo.confidence, confidence.mean())
        pasted = found.mixed.mask[:, 0]
        expected = torch.where(pasted, 1.0, confidence * valid)
        torch.testing.assert_close(found.mixed.weight, expected)
        assert torch.equal(found.mixed.label[~pasted], label[~pasted])


@pytest.mark.parametrize("weight", ["pixel", "share"])
def test_pixels_on_which_store_and_averaged_model_differ_have_no_weight(
    weight: str, shares: Tensor
) -> None:
    ema, store = labelled(shares, "ema").pseudo, labelled(shares, "store").pseudo
    both = labelled(shares, "agree", weight=weight, threshold=0.3).pseudo
    assert ema is not None
    assert store is not None
    assert both is not None
    agree = ema.label == store.label
    assert 0 < agree.float().mean() < 1
    assert torch.equal(both.weight > 0, agree)
    assert torch.equal(both.label[agree], store.label[agree])
    assert (both.weight[agree].std() > 0.01) == (weight == "pixel")


def config_of(labels: Labels) -> TrainConfig:
    return train_config(
        regularizer={"on": []},
        iterations=6,
        checkpoint_every=3,
        log_every=2,
        self_training={"labels": labels, "weight": "share" if labels == "agree" else "pixel"},
    )


@pytest.fixture(scope="module")
def told(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    copy = world.copy(tmp_path_factory.mktemp("told") / "inputs")
    copy.label()
    return copy


@pytest.mark.parametrize("labels", ["store", "agree"])
def test_a_resumed_run_and_a_recorded_one_leave_the_same_bits(
    labels: Labels, told: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = told.resumes(config_of(labels), tmp_path, stop=4, at=3)
    has_average = labels == "agree"
    assert ("ema" in straight["checkpoint"]) == (tmp_path / "through/ema").exists() == has_average
    passes = Rerun()
    monkeypatch.setattr(loop, "passes_for", lambda *_: passes)
    told.train(config_of(labels), tmp_path / "recorded")
    assert passes.launches == 3
    assert_same(results(tmp_path / "recorded"), straight)
    told.train(config_of("ema"), tmp_path / "ema")
    assert (
        results(tmp_path / "ema")["student/model.safetensors"]
        != (straight["student/model.safetensors"])
    )


def test_a_run_does_not_go_on_with_other_labels_nor_begin_without(
    told: World, tmp_path: Path
) -> None:
    world = told.copy(tmp_path / "copy")
    world.train(config_of("store"), tmp_path / "run")
    world.label(images=3)
    with pytest.raises(ConfigError, match=r"holds another run \(other labels"):
        world.train(config_of("store"), tmp_path / "run")
    path = labels_beside(world.index_path)
    entry = Index.read(path).stores["target"]
    other = entry.model_copy(update={"provenance": {**entry.provenance, "classes": ["a"]}})
    for stores, says in (({"target": other}, "of other classes"), ({}, "has no labels of these")):
        Index(stores=stores).write(path)
        with pytest.raises(SSRError, match=rf"labels.json: .*{says}.*: run `ssr label`$"):
            world.train(config_of("store"), tmp_path / "other")
    path.unlink()
    with pytest.raises(SSRError, match=r"labels.json: .*: run `ssr label`$"):
        world.train(config_of("store"), tmp_path / "other")


def test_crops_have_the_labels_under_the_image(told: World) -> None:
    config = train_config(crop_px=CROP, regularizer={"on": []}, self_training={"labels": "store"})
    _, reader = open_labels(config, told.workspace, told.manifest)
    assert reader is not None
    crops, seen = told.crops(config), set()
    for index in range(8):
        sample = crops[index]
        place = locate(told, "target", sample["target_image"], config.crop_align_px)
        name = place.record.image_id
        whole = reader.window(name, "classes", 0, 0, *reader.size_tok(name, "classes"))
        np.testing.assert_array_equal(sample["target_probabilities"], place.cut(whole, 8))
        seen.add(place.mirrored)
    assert seen == {False, True}


def shares_of(classes: Tensor, sure: float = 0.9) -> Tensor:
    """Probabilities (B, K, h, w) that name classes (B, h, w)."""
    rest = (1 - sure) / (CLASSES - 1)
    told = torch.nn.functional.one_hot(classes, CLASSES).permute(0, 3, 1, 2)
    return rest + (sure - rest) * told.float()


def test_wrong_labels_raise_the_losses_that_learn_from_them() -> None:
    with torch.no_grad():
        student = models_for(train_config(**ALIKE)).student
        believed = student(batch_of().target_image).argmax(1)[:, ::2, ::2]
    right = labelled(shares_of(believed), "store", weight="pixel").losses
    wrong = labelled(shares_of((believed + 1) % CLASSES), "store", weight="pixel").losses
    assert wrong["mix"] > 1.2 * right["mix"]
    assert wrong["masked"] > right["masked"]
    assert torch.equal(wrong["clean"], right["clean"])
