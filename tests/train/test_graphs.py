"""Recorded steps compute what others do: on a GPU, and with a stand-in for CUDA graphs here."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from stages.device import float32_on_gpu
from stages.train import loop
from stages.train.graphs import RecordedPasses, passes_for
from stages.train.step import Step, StepResult, draw_step, run_passes, train_step
from store.errors import TrainingError
from tests.train.example import HRDA, train_config
from tests.train.test_distill import DISTILL
from tests.train.test_loop import TWENTY
from tests.train.test_step import ARMS, batch_of, gradients, models_for, relative_error
from tests.train.world import World, assert_same, results, stop_at

# rows that are not those of the curves, and self-training later: three kinds of steps
CHANGES: dict[str, Any] = {
    **TWENTY,
    "log_every": 7,
    "self_training": {"start": 5, "jitter_probability": 1.0, "blur_probability": 0.5},
}


class Rerun(RecordedPasses):
    """Records on the CPU: what is launched is the function itself, on the recorded places."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0

    def record(self, step: Step) -> tuple[StepResult, Callable[[], None]]:
        models = step.models
        every = (
            *(models.student, models.ema, models.regularizer),
            *(models.ema_branch, models.distiller),
        )
        networks = [network for network in every if network is not None]
        held = [deepcopy(network.state_dict()) for network in networks]
        noise = torch.get_rng_state()
        result = run_passes(step)
        torch.set_rng_state(noise)
        for network, state in zip(networks, held, strict=True):
            network.load_state_dict(state)
        weights = [weight for network in networks for weight in network.parameters()]

        def launch() -> None:
            self.launches += 1
            places = [weight.grad for weight in weights]
            for weight in weights:
                weight.grad = None
            again = run_passes(step)
            for name, loss in again.losses.items():
                result.losses[name].copy_(loss)
            for name, values in again.seen.items():
                for tensor, value in zip(result.seen[name], values, strict=True):
                    tensor.copy_(value)
            for old, new in ((result.pseudo, again.pseudo), (result.mixed, again.mixed)):
                for tensor, value in zip(old or (), new or (), strict=True):
                    tensor.copy_(value)
            for weight, place in zip(weights, places, strict=True):
                if place is not None and weight.grad is not None:
                    place.copy_(weight.grad)
                assert (place is None) == (weight.grad is None)
                weight.grad = place

        return result, launch


@pytest.mark.parametrize("steps", [0, 5], ids=["", "distillation"])
def test_recorded_steps_leave_what_others_do(
    steps: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distill = {**DISTILL, "steps": steps, "freeze": 6, "keep": 0.5} if steps else None
    changes = {**CHANGES, "distill": distill}
    world.run(tmp_path / "eager", **changes)
    passes = Rerun()
    monkeypatch.setattr(loop, "passes_for", lambda *_: passes)
    world.run(tmp_path / "recorded", **changes)
    # of 5 and 15 steps, and of those of distillation, 3 of each to warm up
    assert passes.launches == 2 + 12 + max(0, steps - 3)
    assert_same(results(tmp_path / "recorded"), results(tmp_path / "eager"))


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("arm", ARMS)
def test_recorded_passes_of_every_arm_compute_what_others_do(arm: str, place: str) -> None:
    """In five steps, the last two of which launch what was recorded."""
    config, device = train_config(**ARMS[arm]), torch.device(place)
    passes, found = RecordedPasses() if place == "cuda" else Rerun(), []
    for way in (run_passes, passes):
        models = models_for(config, imagenet=True)
        models.set_up(config, device)
        learning = [each for each in (models.student, models.regularizer) if each is not None]
        for iteration in range(5):
            torch.manual_seed(iteration)
            for network in learning:
                network.zero_grad()
            batch = batch_of(iteration)
            draws = draw_step(config, batch.source_label, iteration)
            with float32_on_gpu("highest"):
                losses = train_step(
                    models,
                    batch.to(device),
                    draws,
                    config=config,
                    iteration=iteration,
                    passes=way,
                ).losses
        learnt = [gradients(network) for network in learning]
        found.append({name: value for each in (losses, *learnt) for name, value in each.items()})
    assert relative_error(*found) < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "arm",
    [
        {},
        {"regularizer": {"kind": "guided", "student_drop": 0.5}},
        # stages that shrink to their level pool, which is not deterministic on a GPU
        {"distill": {**DISTILL, "steps": 5, "levels": [None, None, None, "stride8"], "keep": 0.5}},
    ],
    ids=["ssr", "guided", "distillation"],
)
def test_graphs_leave_what_others_do_on_a_gpu_and_resume(
    arm: dict[str, Any],
    precision: str,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes = {**CHANGES, "device": "cuda", "precision": precision, **arm}
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)  # the gradients of attention are summed in any order
    try:
        world.run(tmp_path / "eager", **changes | {"cuda_graphs": "off"})
        world.run(tmp_path / "graphs", **changes)
        with pytest.raises(KeyboardInterrupt):
            world.run(tmp_path / "resumed", stop_at(13), **changes)
        assert world.run(tmp_path / "resumed", **changes).resumed_from == 10
    finally:
        torch.use_deterministic_algorithms(False)
    assert "kernel by kernel" not in caplog.text
    straight = results(tmp_path / "graphs")
    assert_same(straight, results(tmp_path / "eager"))
    assert_same(results(tmp_path / "resumed"), straight)


def test_a_step_that_cannot_be_recorded_is_one_line_with_its_cure(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: RecordedPasses, step: Step) -> NoReturn:
        raise RuntimeError("CUDA error: operation not permitted\nSearch for it in the docs")

    monkeypatch.setattr(RecordedPasses, "record", refuse)
    monkeypatch.setattr(loop, "passes_for", lambda *_: RecordedPasses())
    with pytest.raises(TrainingError, match=r"\(CUDA error: operation not permitted\); set train"):
        world.run(tmp_path, iterations=6)


@pytest.mark.parametrize(
    ("changes", "hindrance"),
    [
        ({"compile": True}, "compile"),
        ({"activation_checkpointing": True}, "activation_checkpointing"),
        ({"student": {"hrda": HRDA}}, "hrda"),
        ({"sync_batch_norm": True}, "sync_batch_norm"),
    ],
)
def test_steps_that_no_graph_can_hold_are_launched_kernel_by_kernel(
    changes: dict[str, Any], hindrance: str, caplog: pytest.LogCaptureFixture
) -> None:
    config, device = train_config(**changes), torch.device("cuda")
    assert passes_for(config, device, 2) is run_passes
    assert hindrance in caplog.text


def test_graphs_are_for_gpus_and_can_be_switched_off() -> None:
    cuda = torch.device("cuda")
    assert isinstance(passes_for(train_config(), cuda, 1), RecordedPasses)
    assert passes_for(train_config(), torch.device("cpu"), 1) is run_passes
    assert passes_for(train_config(cuda_graphs="off"), cuda, 1) is run_passes
