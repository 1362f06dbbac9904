import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.overhead import Operators
from stages.device import float32_on_gpu
from stages.student.student import Student, build_student, seeded
from stages.train.config import TrainConfig
from stages.train.crops import Batch
from stages.train.models import HalfCopies, ImageNetReference, Models, without_noise
from stages.train.monitor import Curves, FiniteCheck, health_row
from stages.train.regularizers.branch import Branch
from stages.train.state import build_optimizer
from stages.train.step import (
    Boxes,
    StepResult,
    draw_boxes,
    draw_step,
    train_step,
)
from tests.train.example import HRDA, SEMASK, STILL, train_config

CLASSES, SIDE = 5, 32

FEATURE_DISTANCE = {"weight": 0.1, "classes": ["by id"], "min_share": 0.1}

MASKING = {"block_px": 8, "ratio": 0.5, "weight": 1.0}


def models_for(config: TrainConfig, *, imagenet: bool = False) -> Models:
    student = student_of(config, seed=1)
    regularizer: Branch | None = None
    ema_branch: Branch | None = None
    if config.regularizer.on:
        with seeded(2):
            regularizer = config.regularizer.build(student, {"stride8": 4, "stride16": 4})
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
    there = batch.to(next(models.student.parameters()).device)
    return train_step(models, there, draws, config=config, iteration=iteration)


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
        (SOURCE_ONLY | {"regularizer": {"on": ["source"]}}, False, "clean enhanced_source"),
        (PLAIN | {"feature_distance": FEATURE_DISTANCE}, True, "clean feature_distance mix"),
        (
            {"student": {"semask": SEMASK}, "masking": MASKING},
            False,
            "clean clean_auxiliary enhanced_source mix mix_auxiliary enhanced_mix masked "
            "masked_auxiliary",
        ),
        ({"regularizer": {"on": ["mixed"]}}, False, "clean mix enhanced_mix"),
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


def doubled(batch: Batch) -> Batch:
    """Images of twice the side, beside features of the same grid."""
    return replace(
        batch,
        source_image=batch.source_image.repeat(1, 1, 2, 2),
        source_label=batch.source_label.repeat_interleave(2, 1).repeat_interleave(2, 2),
        target_image=batch.target_image.repeat(1, 1, 2, 2),
        target_valid=batch.target_valid.repeat(1, 2, 2),
    )


def test_two_scales_learn_in_every_pass_and_from_boxes_of_their_own() -> None:
    config = train_config(
        student={**STILL, "hrda": HRDA, "semask": SEMASK},
        masking=MASKING,
        feature_distance=FEATURE_DISTANCE,
    )
    batch = doubled(batch_of())
    draws, boxes = draw_step(config, batch.source_label, 0), draw_boxes(config, 0)
    assert len({*boxes.values()}) == 3
    assert boxes == draw_boxes(config, 0) != draw_boxes(config, 1)

    def losses(boxes: Boxes, models: Models) -> dict[str, float]:
        found = train_step(models, batch, draws, config=config, iteration=0, boxes=boxes).losses
        return {name: loss.item() for name, loss in found.items()}

    models = models_for(config, imagenet=True)
    optimizer = build_optimizer(models.student, models.regularizer, config.optimizer)
    before = weights(models.student.attention)
    first = losses(boxes, models)
    optimizer.step()
    # a shift before batch norm changes nothing
    assert moved(models.student.attention, before) >= {
        name for name in before if not re.fullmatch(r"embed\.\d\.bias", name)
    }
    assert list(first) == [
        *("clean", "clean_detail", "clean_auxiliary", "enhanced_source", "enhanced_source_detail"),
        *("feature_distance", "mix", "mix_detail", "mix_auxiliary", "enhanced_mix"),
        *("enhanced_mix_detail", "masked", "masked_detail", "masked_auxiliary"),
    ]
    for name, parts in (
        ("clean", ("clean", "enhanced_source")),
        ("mix", ("mix", "enhanced_mix")),
        ("masked", ("masked",)),
    ):
        moved_box = {**boxes, name: draw_boxes(config, 1)["clean"]}
        others = losses(moved_box, models_for(config, imagenet=True))
        changed = {key for key in first if first[key] != others[key]}
        assert changed == {f"{part}{more}" for part in parts for more in ("", "_detail")}


@pytest.mark.parametrize("attention", [True, False])
def test_semantic_layers_learn_from_the_first_step_on(attention: bool) -> None:
    config = train_config(student={"semask": {**SEMASK, "attention": attention}})
    models = models_for(config)
    optimizer = build_optimizer(models.student, models.regularizer, config.optimizer)
    layers = models.student.semantic
    before = weights(layers)
    for iteration in (0, 1):  # gamma is 0 in the first, and lets nothing else of attention learn
        step(config, models, iteration=iteration)
        optimizer.step()
    constant = {name for name in before if name.endswith("key.bias")}  # softmax does not see it
    assert moved(layers, before) >= before.keys() - constant
    assert bool(health_row({}, models).keys() & {"gamma_0"}) == attention


def test_the_optimiser_changes_student_and_regulariser_alone() -> None:
    config = train_config(student=STILL, feature_distance=FEATURE_DISTANCE)
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


def test_pseudo_labels_are_without_dropout_and_stochastic_depth() -> None:
    config = train_config(student={"drop_path": 0.9, "dropout": 0.9})
    labels = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        pseudo = step(config, models_for(config)).pseudo
        assert pseudo is not None
        labels.append(pseudo.label)
    assert torch.equal(*labels)


def test_loss_weights_scale_their_losses() -> None:
    found = []
    for factor in (1.0, 3.0):
        config = train_config(
            student=STILL,
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


CPU, GPU = torch.device("cpu"), torch.device("cuda")

ASKING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal"}
"""Operators whose result the host must know before it can go on."""

ALL: dict[str, Any] = {
    "masking": MASKING,
    "feature_distance": FEATURE_DISTANCE,
    "self_training": {"jitter_probability": 1.0, "blur_probability": 1.0},
    "student": {"drop_path": 0.3, "dropout": 0.3},
}


class NoAsking(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuse operators that a GPU would have to be waited for."""

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        assert func.overloadpacket.__name__ not in ASKING, func
        return func(*args, **(kwargs or {}))


def run_step(device: torch.device, changes: Mapping[str, Any]) -> dict[str, float]:
    """Two steps with their updates, in which the host reads nothing; losses of the first."""
    config = train_config(**changes)
    models = models_for(config, imagenet=True)
    models.set_up(config, device)
    optimizer = build_optimizer(models.student, models.regularizer, config.optimizer)
    watch, curves, found = FiniteCheck(device), Curves(), []
    batch = batch_of()
    draws = draw_step(config, batch.source_label, 0)
    there = batch.to(device)
    with waiting_is_an_error(device):
        for iteration in (0, 1):
            result = train_step(models, there, draws, config=config, iteration=iteration)
            watch.add(result.losses, iteration)
            optimizer.found_inf = watch.failed  # type: ignore[attr-defined]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            curves.add(result.losses)
            found.append(result.losses)
    row = curves.close_row(iteration=1, lr=0.0)
    assert all(math.isfinite(value) for value in row.values())
    return {name: float(loss) for name, loss in found[0].items()}


@contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    if device.type == "cpu":
        with NoAsking():  # type: ignore[no-untyped-call]
            yield
        return
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype feature")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "changes",
    [{}, {"precision": "bfloat16"}, {"micro_batch_size": 1}],
    ids=["float32", "bfloat16", "micro-batches"],
)
def test_a_step_its_update_and_its_curves_ask_for_no_value(changes: dict[str, Any]) -> None:
    run_step(CPU, ALL | changes)


NOISY: dict[str, Any] = {"drop_path": 0.5, "dropout": 0.5}

EVERYTHING: dict[str, Any] = {
    "masking": MASKING,
    "feature_distance": FEATURE_DISTANCE,
    "self_training": {"threshold": 0.3},
    "student": STILL,
}

ARMS: dict[str, dict[str, Any]] = {
    "source-only": SOURCE_ONLY,
    "daformer": PLAIN | {"feature_distance": FEATURE_DISTANCE},
    "ssr": {},
    "ssr-mic": {"masking": MASKING},
    "guided": {"regularizer": {"kind": "guided", "student_drop": 0.0}},
    "everything": EVERYTHING,
}


@pytest.mark.gpu
@pytest.mark.parametrize("arm", ARMS)
def test_a_gpu_is_not_waited_for_and_computes_the_losses_of_the_cpu(arm: str) -> None:
    changes = {"student": STILL} | ARMS[arm]
    with float32_on_gpu("highest"):
        found = run_step(GPU, changes)
    assert found == pytest.approx(run_step(CPU, changes), rel=1e-3)


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for_in_bfloat16() -> None:
    run_step(GPU, ALL | {"precision": "bfloat16"})


Found = dict[str, Tensor]


def run(
    *,
    prepare: Callable[[Models], object] = lambda models: None,
    device: torch.device = CPU,
    **changes: Any,  # noqa: ANN401
) -> tuple[Models, Found, Found]:
    """One step with all losses; its networks, losses, and gradients of all that learns."""
    config = train_config(**EVERYTHING | changes)
    models = models_for(config, imagenet=True)
    models.set_up(config, device)
    prepare(models)
    torch.manual_seed(0)
    losses = step(config, models).losses
    assert len(losses) == 6
    found = gradients(models.student) | gradients(models.regularizer)
    return models, losses, found


def relative_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Of all gradients as one vector."""
    assert found.keys() == expected.keys()
    one, other = (torch.cat([g[name].flatten() for name in expected]) for g in (found, expected))
    return float((one - other).norm() / other.norm())


def still_norms(models: Models) -> None:
    """Batch norms by their running averages, which see no batch."""
    for network in (models.student, models.ema):
        assert network is not None
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def test_micro_batches_add_up_to_the_batch_but_for_batch_norms() -> None:
    _, expected_losses, expected = run(prepare=still_norms)
    _, losses, found = run(prepare=still_norms, micro_batch_size=1)
    for name, loss in expected_losses.items():
        assert float(losses[name]) == pytest.approx(float(loss), rel=1e-5), name
    assert relative_error(found, expected) < 1e-5

    _, whole, _ = run()
    models, parts, _ = run(micro_batch_size=1)
    assert float(parts["clean"]) != pytest.approx(float(whole["clean"]), rel=1e-5)
    assert {int(n) for k, n in models.student.state_dict().items() if "num_batches" in k} == {10}


def test_bfloat16_leaves_weights_gradients_and_losses_in_float32() -> None:
    """And changes them by its rounding. Source only: pseudo-labels of random weights flip."""
    results = []
    for precision in ("float32", "bfloat16"):
        config = train_config(
            precision=precision,
            student=STILL,
            self_training=None,
            regularizer={"on": ["source"]},
            feature_distance=FEATURE_DISTANCE,
        )
        models = models_for(config, imagenet=True)
        with torch.no_grad():  # as sure of itself as a new student is
            models.student.head.get_parameter("classifier.weight").div_(100)
        losses = step(config, models).losses
        results.append((losses, gradients(models.student) | gradients(models.regularizer)))
    (expected_losses, expected), (losses, found) = results
    assert {value.dtype for value in [*losses.values(), *found.values()]} == {torch.float32}
    for name, loss in expected_losses.items():
        assert float(losses[name]) == pytest.approx(float(loss), rel=2e-3), name
    assert 1e-3 < relative_error(found, expected) < 0.05


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch_size": 1},
        {"precision": "float32", "activation_checkpointing": True},
        {"student": {**NOISY, "semask": SEMASK}, "feature_distance": None},
        {"student": {"hrda": HRDA}, "feature_distance": None},
        {
            "regularizer": {
                "kind": "guided",
                "student_drop": 0.5,
                "refine": {"tokens": 4, "rank": 2},
            }
        },
    ],
    ids=["micro-batches", "float32", "semask", "hrda", "guided"],
)
def test_copies_and_sums_change_no_bit_of_what_autocast_and_autograd_compute(
    changes: dict[str, Any],
) -> None:
    """Of losses, gradients, weights and averages of batch norms in three steps."""
    config = train_config(**EVERYTHING | {"precision": "bfloat16"} | changes)
    results = []
    for copies in (False, True):
        models = models_for(config, imagenet=True)
        models.set_up(config, CPU)
        if not copies:
            models = replace(models, half=HalfCopies())
        optimizer = build_optimizer(models.student, models.regularizer, config.optimizer)
        found: Found = {}
        for iteration in range(3):
            torch.manual_seed(iteration)
            batch, boxes = doubled(batch_of(iteration)), draw_boxes(config, iteration)
            draws = draw_step(config, batch.source_label, iteration)
            with Operators() as operators:
                result = train_step(
                    models, batch, draws, config=config, iteration=iteration, boxes=boxes
                )
            found = {f"{iteration} {name}": loss for name, loss in result.losses.items()} | found
            for network in (models.student, models.regularizer):
                if network is not None:
                    found |= {f"{iteration} {n}": g for n, g in gradients(network).items()}
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for network in (models.student, models.ema):
            assert network is not None
            found |= {f"{network is models.ema} {n}": v for n, v in network.state_dict().items()}
        results.append((found, operators.counts))
    (expected, many), (found, few) = results
    assert found.keys() == expected.keys()
    different = [name for name, value in expected.items() if not torch.equal(found[name], value)]
    assert not different
    assert few["add_"] < many["add_"] / 3, "gradients are added one by one"
    if config.precision == "bfloat16":
        assert few["_to_copy"] < many["_to_copy"] / 3, "weights are cast in the passes"


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the tracer looks at it
@pytest.mark.parametrize(
    ("backend", "device", "error"),
    [
        ("eager", CPU, 1e-4),  # traces; the code generator takes minutes
        pytest.param("inductor", GPU, 1e-3, marks=pytest.mark.gpu),
    ],
)
def test_compiled_students_compute_the_same_up_to_rounding(
    backend: str, device: torch.device, error: float
) -> None:
    def compile_student(models: Models) -> None:
        models.student.compile_parts(backend)

    with float32_on_gpu("highest"):
        before, expected_losses, expected = run(device=device)
        models, losses, found = run(prepare=compile_student, device=device)
    assert models.student.state_dict().keys() == before.student.state_dict().keys()
    for name, loss in expected_losses.items():
        assert float(losses[name]) == pytest.approx(float(loss), rel=error / 10), name
    assert relative_error(found, expected) < error
