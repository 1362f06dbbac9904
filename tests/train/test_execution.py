"""Ways to compute a step that cost less: what each leaves equal, and what it changes."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.student.student import still_averages
from stages.train import step as step_module
from stages.train.config import TrainConfig
from stages.train.crops import Batch
from stages.train.networks import Models
from tests.train.example import train_config
from tests.train.test_step import FEATURE_DISTANCE, MASKING, batch_of, gradients, models_for, step

QUIET: dict[str, Any] = {"drop_path": 0.0, "dropout": 0.0}
NOISY: dict[str, Any] = {"drop_path": 0.5, "dropout": 0.5}
ALL: dict[str, Any] = {
    "masking": MASKING,
    "feature_distance": FEATURE_DISTANCE,
    "self_training": {"threshold": 0.3},
    "student": QUIET,
}
CPU = torch.device("cpu")

Found = dict[str, Tensor]


def run(
    *,
    prepare: Callable[[Models], object] = lambda models: None,
    **changes: Any,  # noqa: ANN401
) -> tuple[Models, Found, Found]:
    """One step with all losses; its networks, losses, and gradients of all that learns."""
    config = train_config(**ALL | changes)
    models = models_for(config, imagenet=True)
    models.settle(config, CPU)
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


def test_one_way_back_for_losses_of_one_forward_pass_has_the_gradients_of_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, _, expected = run()

    def one_by_one(
        losses_of: Callable[[slice], dict[str, Tensor]], batch: Batch, config: TrainConfig
    ) -> dict[str, Tensor]:
        losses = losses_of(slice(None))
        for loss in losses.values():
            loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        return {name: loss.detach() for name, loss in losses.items()}

    monkeypatch.setattr(step_module, "_accumulate", one_by_one)
    _, _, found = run()
    assert relative_error(found, expected) < 1e-6


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


def test_a_micro_batch_of_the_whole_batch_changes_no_bit() -> None:
    (_, _, expected), (_, _, found) = run(), run(micro_batch_size=2)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("head", ["daformer", "mlp"])
def test_recomputed_activations_change_no_bit(head: str) -> None:
    """Of gradients, losses and averages of batch norms, with noise."""
    student = NOISY | {"head": head}
    results = []
    for recompute in (False, True):
        models, losses, found = run(student=student, activation_checkpointing=recompute)
        results.append({**losses, **found, **models.student.state_dict()})
    kept, recomputed = results
    assert kept.keys() == recomputed.keys()
    assert all(torch.equal(recomputed[name], value) for name, value in kept.items())


def test_recomputing_moves_shared_batch_norms_once_too() -> None:
    """Of several GPUs; the layer itself refuses the CPU, its averages need none."""
    head = nn.Sequential(nn.SyncBatchNorm(4))
    before = {name: buffer.clone() for name, buffer in head.named_buffers()}
    with still_averages(head):
        for buffer in head.buffers():
            buffer.add_(1)
    assert all(torch.equal(buffer, before[name]) for name, buffer in head.named_buffers())


def test_recomputed_activations_are_not_kept() -> None:
    sizes = []
    for recompute in (False, True):
        models = models_for(train_config())
        if recompute:
            models.student.recompute_activations()
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            if not isinstance(tensor, nn.Parameter):
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = models.student(batch_of().source_image)
        assert logits.requires_grad
        sizes.append(sum(kept.values()))
    assert sizes[1] < sizes[0] / 5


def test_channels_last_is_another_rounding() -> None:
    _, _, expected = run()
    models, _, found = run(channels_last=True)
    weight = models.student.head.get_parameter("bottleneck.conv.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.grad is not None
    assert weight.grad.stride() == weight.stride()
    assert relative_error(found, expected) < 1e-4


def test_bfloat16_leaves_weights_gradients_and_losses_in_float32() -> None:
    """And changes them by its rounding. Source only: pseudo-labels of random weights flip."""
    results = []
    for precision in ("float32", "bfloat16"):
        config = train_config(
            precision=precision,
            student=QUIET,
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


def test_bfloat16_keeps_softmax_threshold_cross_entropy_and_distance_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, set[torch.dtype]] = {}

    def spy(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def spied(first: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            result = original(first, *args, **kwargs)
            seen.setdefault(name, set()).update({first.dtype, result.dtype})
            return result

        monkeypatch.setattr(owner, name, spied)

    spy(Tensor, "softmax")
    spy(torch.nn.functional, "cross_entropy")
    spy(torch.linalg, "vector_norm")
    logits: set[torch.dtype] = set()

    def note(_: nn.Module, __: object, output: Tensor) -> None:
        logits.add(output.dtype)

    run(
        precision="bfloat16",
        prepare=lambda models: models.student.head.register_forward_hook(note),
    )
    assert logits == {torch.bfloat16}
    names = ("softmax", "cross_entropy", "vector_norm")
    assert seen == {name: {torch.float32} for name in names}


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the tracer looks at it
def test_compiled_students_compute_the_same_up_to_rounding() -> None:
    """With the tracing of torch.compile, not its code generator, which takes minutes."""

    def compile_student(models: Models) -> None:
        models.student.compile_parts("eager")

    before, expected_losses, expected = run()
    models, losses, found = run(prepare=compile_student)
    assert models.student.state_dict().keys() == before.student.state_dict().keys()
    for name, loss in expected_losses.items():
        assert float(losses[name]) == pytest.approx(float(loss), rel=1e-5), name
    assert relative_error(found, expected) < 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, in the compiler's imports
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of its own tracing
def test_generated_code_computes_the_same_up_to_rounding() -> None:
    (_, _, expected), (_, _, found) = run(), run(compile=True)
    assert relative_error(found, expected) < 1e-4
