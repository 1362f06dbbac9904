from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.student.student import Student, build_student, seeded
from stages.train.config import TrainConfig
from stages.train.crops import Batch
from stages.train.draws import Draws, draw_step
from stages.train.networks import ImageNetReference, Models, without_noise
from stages.train.optimizer import build_optimizer
from stages.train.regularizers.branch import Branch
from stages.train.step import Mixed, StepResult, mix_stored, train_step
from tests.train.example import train_config

CLASSES, SIDE = 5, 32
FEATURE_DISTANCE = {"weight": 0.1, "classes": ["by id"], "min_share": 0.1}
MASKING = {"block_px": 8, "ratio": 0.5, "weight": 1.0}


def models_for(config: TrainConfig, *, imagenet: bool = False) -> Models:
    student = student_of(config, seed=1)
    regularizer: Branch | None = None
    ema_branch: Branch | None = None
    if config.regularizer.on:
        with seeded(2):
            regularizer = config.regularizer.build(student, 4)
    ema = without_noise(student_of(config, seed=3)) if config.self_training else None
    if regularizer is not None and regularizer.labels_target:
        ema_branch = without_noise(deepcopy(regularizer))
    reference = None
    if imagenet:
        backbone = student_of(config, seed=4).backbone.eval().requires_grad_(False)
        reference = ImageNetReference(backbone, range(CLASSES))
    return Models(student, ema, regularizer, reference, ema_branch)


def student_of(config: TrainConfig, seed: int) -> Student:
    """A student that is surer of itself than random weights are, and sees all classes."""
    student = build_student(config.student, num_classes=CLASSES, seed=seed)
    with torch.no_grad():
        student.head.get_parameter("classifier.weight").mul_(100)
    return student


def batch_of(seed: int = 0, *, source: bool = True, target: bool = True) -> Batch:
    """Blocks of random classes under noise; features of four channels, or none."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    blocks = torch.randint(0, CLASSES, (2, 4, 4), generator=generator)
    valid = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    valid[:, -6:] = False
    return Batch(
        source_image=noise(2, 3, SIDE, SIDE),
        source_label=blocks.repeat_interleave(8, 1).repeat_interleave(8, 2),
        source_features={"stride8": noise(2, 4, 4, 4)} if source else {},
        target_image=noise(2, 3, SIDE, SIDE),
        target_valid=valid,
        target_features={"stride8": noise(2, 4, 4, 4)} if target else {},
    )


def step(
    config: TrainConfig, models: Models, batch: Batch | None = None, iteration: int = 0
) -> StepResult:
    batch = batch or batch_of()
    draws = draw_step(config, batch.source_label, iteration)
    return train_step(models, batch, draws, config=config, iteration=iteration)


def weights(module: nn.Module | None) -> dict[str, Tensor]:
    assert module is not None
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def moved(module: nn.Module | None, before: Mapping[str, Tensor]) -> set[str]:
    return {name for name, value in weights(module).items() if not torch.equal(value, before[name])}


def gradients(module: nn.Module | None) -> dict[str, Tensor]:
    assert module is not None
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


SOURCE_ONLY: dict[str, Any] = {"regularizer": {"on": []}, "self_training": None}
PLAIN: dict[str, Any] = {"regularizer": {"on": []}}


@pytest.mark.parametrize(
    ("changes", "imagenet", "expected"),
    [
        (SOURCE_ONLY, False, "clean"),
        (SOURCE_ONLY | {"regularizer": {"on": ["source"]}}, False, "clean enhanced_source"),
        (PLAIN, False, "clean mix"),
        (PLAIN | {"masking": MASKING}, False, "clean mix masked"),
        (PLAIN | {"feature_distance": FEATURE_DISTANCE}, True, "clean feature_distance mix"),
        ({"regularizer": {"on": ["source"]}}, False, "clean enhanced_source mix"),
        ({"regularizer": {"on": ["mixed"]}}, False, "clean mix enhanced_mix"),
        ({}, False, "clean enhanced_source mix enhanced_mix"),
        (
            {"masking": MASKING, "feature_distance": FEATURE_DISTANCE},
            True,
            "clean enhanced_source feature_distance mix enhanced_mix masked",
        ),
    ],
)
def test_an_arm_computes_its_losses_and_no_other(
    changes: dict[str, Any], imagenet: bool, expected: str
) -> None:
    config = train_config(**changes)
    result = step(config, models_for(config, imagenet=imagenet))
    assert list(result.losses) == expected.split()
    assert all(loss.ndim == 0 and not loss.requires_grad for loss in result.losses.values())
    assert all(torch.isfinite(loss) for loss in result.losses.values())


def test_plain_training_needs_no_features() -> None:
    config = train_config(regularizer={"on": []})
    step(config, models_for(config), batch_of(source=False, target=False))


def test_the_source_part_alone_needs_no_features_of_the_target() -> None:
    config = train_config(regularizer={"on": ["source"]})
    step(config, models_for(config), batch_of(target=False))


def test_every_part_of_student_and_regulariser_gets_a_gradient() -> None:
    config = train_config(student={"drop_path": 0.0, "dropout": 0.0})
    models = models_for(config)
    step(config, models)
    for module in (models.student, models.regularizer):
        assert module is not None
        assert gradients(module).keys() == dict(module.named_parameters()).keys()


def test_gradients_of_the_enhanced_pass_reach_the_student() -> None:
    found = []
    for parts in ([], ["source"]):
        config = train_config(
            self_training=None,
            regularizer={"on": parts},
            student={"drop_path": 0.0, "dropout": 0.0},
        )
        models = models_for(config)
        step(config, models)
        found.append(gradients(models.student)["backbone.stages.0.patch_embeddings.proj.weight"])
    plain, enhanced = found
    assert (plain - enhanced).norm() > 0.1 * plain.norm()


def test_stages_without_a_level_have_no_regulariser() -> None:
    levels = [None, "stride8", None, "stride8"]
    config = train_config(regularizer={"on": ["source", "mixed"], "levels": levels})
    models = models_for(config)
    step(config, models)
    assert {name.split(".")[1] for name in gradients(models.regularizer)} == {"1", "3"}


def test_the_optimiser_changes_student_and_regulariser_alone() -> None:
    config = train_config(
        student={"drop_path": 0.0, "dropout": 0.0}, feature_distance=FEATURE_DISTANCE
    )
    models = models_for(config, imagenet=True)
    assert models.imagenet is not None
    optimizer = build_optimizer(models.student, models.regularizer, config.optimizer)
    step(config, models)
    student, regularizer = weights(models.student), weights(models.regularizer)
    ema, imagenet = weights(models.ema), deepcopy(models.imagenet.backbone.state_dict())
    optimizer.step()
    assert moved(models.student, student) == student.keys()
    assert moved(models.regularizer, regularizer) == regularizer.keys()
    assert not moved(models.ema, ema)
    step(config, models, iteration=1)
    optimizer.step()
    after = models.imagenet.backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in imagenet.items())
    assert gradients(models.ema) == gradients(models.imagenet.backbone) == {}


def test_the_ema_model_waits_for_self_training_then_copies_and_then_follows() -> None:
    config = train_config(self_training={"start": 2, "ema_decay": 0.6})
    models = models_for(config)
    assert models.ema is not None
    waiting = deepcopy(models.ema.state_dict())
    for iteration in (0, 1):
        result = step(config, models, iteration=iteration)
        assert result.pseudo is None
        assert result.mixed is None
        assert set(result.losses) == {"clean", "enhanced_source"}
    after = models.ema.state_dict()
    assert all(torch.equal(after[name], value) for name, value in waiting.items())

    step(config, models, iteration=2)
    student = weights(models.student)
    assert not moved(models.ema, student)

    for iteration, keep in ((3, 0.5), (4, 0.6), (5, 0.6)):  # min(1 - 1/(t+1), 0.6)
        with torch.no_grad():
            for parameter in models.student.parameters():
                parameter.add_(0.1)
        before, student = weights(models.ema), weights(models.student)
        step(config, models, iteration=iteration)
        for name, value in weights(models.ema).items():
            torch.testing.assert_close(value, keep * before[name] + (1 - keep) * student[name])


def test_the_ema_model_moves_before_it_labels() -> None:
    config = train_config()
    models = models_for(config)
    copied = without_noise(deepcopy(models.student))
    result = step(config, models)
    logits = copied(batch_of().target_image)
    expected = torch.nn.functional.interpolate(logits, (SIDE, SIDE), mode="bilinear").argmax(1)
    assert result.pseudo is not None
    assert torch.equal(result.pseudo.label, expected)


def test_pseudo_labels_are_without_dropout_and_stochastic_depth() -> None:
    config = train_config(student={"drop_path": 0.9, "dropout": 0.9})
    labels = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        pseudo = step(config, models_for(config)).pseudo
        assert pseudo is not None
        labels.append(pseudo.label)
    assert torch.equal(*labels)


def test_batch_norms_of_the_ema_model_use_the_batch() -> None:
    config = train_config()
    models = models_for(config)
    assert models.ema is not None
    norms = [m for m in models.ema.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    step(config, models)
    after = [norm.running_mean for norm in norms if norm.running_mean is not None]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_dropout_is_on_in_the_student() -> None:
    config = train_config(student={"drop_path": 0.5, "dropout": 0.5}, **SOURCE_ONLY)
    losses = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        losses.append(float(step(config, models_for(config)).losses["clean"]))
    assert losses[0] != losses[1]


def plain_draws() -> Draws:
    """Classes 0 and 1, unaugmented."""
    config = train_config(self_training={"jitter_probability": 0.0, "blur_probability": 0.0})
    draws = draw_step(config, batch_of().source_label, 0)
    assert draws is not None
    return draws._replace(classes=[[0, 1], [0, 1]])


def test_mixed_images_show_the_source_where_its_classes_were_drawn() -> None:
    config = train_config(self_training={"threshold": 0.0})
    batch = batch_of()
    result = train_step(models_for(config), batch, plain_draws(), config=config, iteration=0)
    mixed, pseudo = result.mixed, result.pseudo
    assert mixed is not None
    assert pseudo is not None
    assert len(set(pseudo.label.flatten().tolist())) > 1
    pasted = (batch.source_label == 0) | (batch.source_label == 1)
    assert 0 < pasted.float().mean() < 1
    assert torch.equal(mixed.mask.squeeze(1), pasted)
    assert torch.equal(
        mixed.image, torch.where(pasted[:, None], batch.source_image, batch.target_image)
    )
    assert torch.equal(mixed.label, torch.where(pasted, batch.source_label, pseudo.label))
    # every pixel reaches a threshold of 0, so the margins alone have no weight
    assert torch.equal(mixed.weight, (pasted | batch.target_valid).float())


def test_confidence_weighs_what_is_not_pasted() -> None:
    config = train_config(self_training={"threshold": 0.5})
    result = train_step(models_for(config), batch_of(), plain_draws(), config=config, iteration=0)
    mixed, pseudo = result.mixed, result.pseudo
    assert mixed is not None
    assert pseudo is not None
    assert 0 < float(pseudo.confidence) < 1
    elsewhere = ~mixed.mask.squeeze(1)
    assert set(mixed.weight[elsewhere].tolist()) == {0.0, float(pseudo.confidence)}
    assert set(mixed.weight[~elsewhere].tolist()) == {1.0}


def test_teacher_features_are_mixed_by_the_mask_of_the_images() -> None:
    config = train_config()
    batch, seen = batch_of(), []

    def mixer(mixed: Mixed, batch: Batch) -> Mapping[str, Tensor]:
        seen.append((mixed, batch))
        return mix_stored(mixed, batch)

    draws = plain_draws()
    result = train_step(models_for(config), batch, draws, config=config, iteration=0, mixer=mixer)
    [(mixed, given)] = seen
    assert result.mixed is not None
    assert mixed is result.mixed
    assert given is batch
    share = mixed.mask.float().unfold(2, 8, 8).unfold(3, 8, 8).mean((-1, -2))
    torch.testing.assert_close(
        mix_stored(mixed, batch)["stride8"],
        share * batch.source_features["stride8"] + (1 - share) * batch.target_features["stride8"],
    )


def test_features_of_the_target_matter_to_the_enhanced_mixed_pass_alone() -> None:
    config = train_config(student={"drop_path": 0.0, "dropout": 0.0})
    batch = batch_of()
    other = replace(batch, target_features={"stride8": 9 * batch.target_features["stride8"]})
    losses, changed = (step(config, models_for(config), b).losses for b in (batch, other))
    assert {name for name in losses if losses[name] != changed[name]} == {"enhanced_mix"}


def test_loss_weights_scale_their_losses() -> None:
    found = []
    for factor in (1.0, 3.0):
        config = train_config(
            student={"drop_path": 0.0, "dropout": 0.0},
            self_training={"threshold": 0.0},
            masking={**MASKING, "weight": factor},
            feature_distance={**FEATURE_DISTANCE, "weight": factor},
        )
        found.append(step(config, models_for(config, imagenet=True)).losses)
    one, three = found
    for name in ("masked", "feature_distance"):
        assert float(three[name]) == pytest.approx(3 * float(one[name]), rel=1e-5)
        assert float(one[name]) > 0
    assert three["clean"] == one["clean"]
