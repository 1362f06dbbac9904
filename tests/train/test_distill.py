import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.student.student import build_student, load_student, seeded
from stages.train.config import TrainConfig
from stages.train.crops import Batch
from stages.train.distill import Distiller
from stages.train.models import Models
from stages.train.state import build_optimizer, learning_rate
from stages.train.step import DistillDraws, StepResult, draw_distilled, train_step
from tests.train.example import train_config
from tests.train.world import LEVELS, World, assert_same, results, silent

DISTILL: dict[str, Any] = {
    "kind": "regress",
    "steps": 10,
    "levels": ["stride8", None, "stride16", "stride8"],
    "loss": "cosine",
    "freeze": 0,
    "keep": 0.0,
}
NOISELESS: dict[str, Any] = {"drop_path": 0.0, "dropout": 0.0}
SIDE, CELL = 64, 8


def colours(image: Tensor) -> Tensor:
    """Four channels of a teacher that sees colours: (B, 3, H, W) to (B, 4, H/8, W/8)."""
    mean = F.avg_pool2d(image, CELL)
    return torch.cat([mean, mean[:, :1] * mean[:, 1:2]], 1)


def batch_of(seed: int, batch: int = 4) -> Batch:
    """Images of random patches, and what the teacher sees of them."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(2, batch, 3, CELL, CELL, generator=generator)
    source, target = patches.repeat_interleave(8, 3).repeat_interleave(8, 4)
    label = torch.zeros(batch, SIDE, SIDE, dtype=torch.int64)
    features = [dict.fromkeys(LEVELS, colours(image)) for image in (source, target)]
    return Batch(source, label, features[0], target, label == 0, features[1])


def models_of(config: TrainConfig) -> Models:
    student = build_student(config.student, num_classes=5, seed=1)
    moments = dict.fromkeys(LEVELS, (torch.zeros(4), torch.ones(4)))
    assert config.distill is not None
    with seeded(2):
        distiller = Distiller(student.channels, config.distilled_levels, moments, config.distill)
    return Models(student, None, None, None, distiller=distiller)


AS_THEY_ARE: DistillDraws = {"source": [], "target": []}


def distill(
    models: Models, batch: Batch, config: TrainConfig, draws: DistillDraws = AS_THEY_ARE
) -> StepResult:
    """A step before the task."""
    return train_step(models, batch, None, config=config, iteration=-1, distilled=draws)


@pytest.mark.parametrize("loss", ["cosine", "mse"])
@pytest.mark.parametrize("kind", ["regress", "query"])
def test_stages_learn_their_teacher_and_the_loss_reads_it(kind: str, loss: str) -> None:
    config = train_config(
        distill={**DISTILL, "kind": kind, "loss": loss},
        student=NOISELESS,
        optimizer={"lr": 3e-3},
    )
    models, unseen = models_of(config), batch_of(1000)
    optimizer = build_optimizer(models.student, None, config.optimizer, models.distiller)
    before = distill(models, unseen, config)
    for seed in range(60):
        optimizer.zero_grad()
        distill(models, batch_of(seed), config)
        optimizer.step()
    after = distill(models, unseen, config)
    wrong = {level: each.roll(1, dims=0) for level, each in unseen.target_features.items()}
    of_another = distill(models, replace(unseen, target_features=wrong), config)

    assert after.seen.keys() == {"explained_0", "explained_2", "explained_3"}
    first, last = (float(result.seen["explained_0"][1]) for result in (before, after))
    assert last > first + 0.3
    assert last > 0.4
    assert of_another.losses["distill_target"] > 1.3 * after.losses["distill_target"]
    assert of_another.losses["distill_source"] == after.losses["distill_source"]
    assert float(of_another.seen["explained_0"][1]) < last - 0.3


def encoder_gradient(models: Models) -> Tensor:
    found = [w.grad.flatten() for w in models.student.backbone.parameters() if w.grad is not None]
    models.student.zero_grad()
    return torch.cat(found) if found else torch.zeros(0)


def test_what_is_kept_reaches_the_encoder_from_target_images_alone() -> None:
    config = train_config(distill=DISTILL, student=NOISELESS)
    models, batch, other = models_of(config), batch_of(1), batch_of(2)

    def gradient(batch: Batch) -> Tensor:
        result = distill(models, batch, config, {"target": []})
        assert [*result.losses] == ["distill_target"]
        return encoder_gradient(models)

    kept = gradient(batch)
    of_source = replace(
        batch, source_image=other.source_image, source_features=other.source_features
    )
    assert torch.equal(gradient(of_source), kept)
    assert not torch.equal(gradient(replace(batch, target_image=other.target_image)), kept)
    assert not torch.equal(gradient(replace(batch, target_features=other.target_features)), kept)

    def of_task(draws: DistillDraws) -> Tensor:
        task = train_config(distill={**DISTILL, "keep": 0.5}, student=NOISELESS)
        train_step(models, batch, None, config=task, iteration=0, distilled=draws)
        return encoder_gradient(models)

    added = of_task({"target": []}) - of_task({})
    torch.testing.assert_close(added, 0.5 * kept, rtol=1e-3, atol=1e-6)


def test_the_student_sees_jitter_and_the_teacher_does_not() -> None:
    config = train_config(
        batch_size=4,
        distill={**DISTILL, "loss": "mse"},
        student=NOISELESS,
        self_training={"jitter_probability": 1.0},
    )
    models, batch = models_of(config), batch_of(1)
    features = {level: each.clone() for level, each in batch.source_features.items()}
    clean = distill(models, batch, config).losses
    draws = draw_distilled(config, 3)
    assert draws.keys() == {"source", "target"}
    for name, loss in distill(models, batch, config, draws).losses.items():
        assert loss != clean[name]
    assert_same(batch.source_features, features)
    alone = train_config(distill=DISTILL, self_training=None, regularizer={"on": []})
    assert draw_distilled(alone, 3) == AS_THEY_ARE
    assert draw_distilled(alone, 10) == draw_distilled(train_config(), 3) == {}


@pytest.mark.parametrize(("freeze", "moves"), [(0, True), (1, True), (2, False)])
def test_frozen_weights_of_the_encoder_stay_and_the_head_learns(
    world: World, tmp_path: Path, freeze: int, moves: bool
) -> None:
    kept: list[Mapping[str, Tensor]] = []

    def remember(done: int, total: int, what: str) -> None:
        if done >= 2:
            saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
            kept.append(saved["student"])

    changes = {**DISTILL, "steps": 2, "freeze": freeze, "keep": 1.0}
    world.run(tmp_path, remember, distill=changes, iterations=2, optimizer={"warmup_iterations": 0})
    before, *_, after = kept
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert any(name.startswith("head.") for name in moved)
    assert any(name.startswith("backbone.") for name in moved) == moves


def test_a_run_resumes_bit_for_bit_inside_its_distillation_at_its_end_and_after(
    world: World, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "distill": {**DISTILL, "kind": "query", "freeze": 2, "keep": 0.5},
        "student": {"drop_path": 0.3, "dropout": 0.3},
        "iterations": 10,
        "checkpoint_every": 5,
        "log_every": 4,
    }

    calls: list[tuple[int, int]] = []

    def interrupt(done: int, total: int, what: str) -> None:
        calls.append((done, total))
        if calls.count((done, total)) == 1 and done in (7, 12, 17):
            raise KeyboardInterrupt

    world.run(tmp_path / "straight", **changes)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            world.run(tmp_path / "resumed", interrupt, **changes)
    assert world.run(tmp_path / "resumed", interrupt, **changes).resumed_from == 15
    expected = [*range(1, 8), *range(6, 13), *range(11, 18), *range(16, 21)]
    assert calls == [(done, 20) for done in expected]
    assert_same(results(tmp_path / "resumed"), results(tmp_path / "straight"))


def test_the_task_has_the_schedule_and_adam_of_the_task_alone(world: World, tmp_path: Path) -> None:
    config = train_config(
        distill={**DISTILL, "steps": 3}, iterations=4, log_every=1, self_training={"start": 1}
    )
    world.train(config, tmp_path, validation=world.scripted(lambda student: 1.0))
    curves, health = (
        list(csv.DictReader((tmp_path / name).read_text().splitlines()))
        for name in ("curves.csv", "health.csv")
    )
    expected = [learning_rate(i, config.optimizer, 3) for i in range(3)]
    expected += [learning_rate(i, config.optimizer, 4) for i in range(4)]
    assert [float(row["lr"]) for row in curves] == pytest.approx(expected, rel=1e-5)
    for name, seen in {
        "distill_source": [0, 1, 2],
        "distill_target": [0, 1, 2],
        "clean": [3, 4, 5, 6],
        "mix": [4, 5, 6],  # self-training begins with the second iteration of the task
    }.items():
        assert [n for n, row in enumerate(curves) if row[name]] == seen, name
    assert [n for n, row in enumerate(health) if row["explained_2"]] == [0, 1, 2]
    assert [n for n, row in enumerate(health) if row["gradient_0"]] == [3, 4, 5, 6]
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["optimizer"]["state"]
    assert {float(each["step"]) for each in saved.values()} == {4.0}


def test_a_distilled_student_is_a_start_for_several_runs(world: World, tmp_path: Path) -> None:
    alone: dict[str, Any] = {"regularizer": {"on": []}, "self_training": None}
    levels = {**DISTILL, "steps": 2, "levels": None}  # those of regularizer.levels
    made = world.run(tmp_path / "distilled", silent, distill=levels, iterations=0, **alone)
    assert made.curves.health[-1]["explained_3"] < 1
    assert made.teacher_trained is False
    start = str(made.student)
    assert world.run(tmp_path / "task", init=start, **alone).teacher_trained is False


@pytest.mark.parametrize("distill", [None, {**DISTILL, "steps": 1}], ids=["off", "on"])
def test_distillation_that_is_off_is_no_part_of_a_run(
    world: World, tmp_path: Path, distill: dict[str, Any] | None
) -> None:
    _, meta = load_student(world.run(tmp_path, iterations=1, distill=distill).student)
    identity = json.loads((tmp_path / "run.json").read_bytes())
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    names = [group["name"] for group in checkpoint["optimizer"]["param_groups"]]
    found = ["distill" in identity["train"], "distill" in meta["recipe"]]
    assert [*found, "distiller" in checkpoint, "distiller" in names] == [distill is not None] * 4
