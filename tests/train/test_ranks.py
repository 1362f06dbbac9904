"""Several processes on the CPU, over gloo, against one with the same global batch."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from stages.train.config import TrainConfig
from stages.train.loop import Progress, fit
from stages.train.ranks import ALONE, Ranks
from store.errors import ConfigError, SSRError
from tests.train.example import MASKING, STILL, train_config
from tests.train.test_distill import DISTILL
from tests.train.world import World, assert_same, results, silent, stop_at

REPOSITORY = Path(__file__).parents[2]

EXACT: dict[str, Any] = {
    "iterations": 3,
    "batch_size": 4,
    "log_every": 1,
    "student": STILL,
}

ARMS: dict[str, dict[str, Any]] = {
    "source only": {**EXACT, "regularizer": {"on": ["source"]}, "self_training": None},
    # at threshold 0 every share of the batch has the confidence of the whole
    "all": {**EXACT, "self_training": {"threshold": 0.0}, "masking": MASKING},
    "distillation first": {
        **EXACT,
        "iterations": 1,
        "self_training": {"threshold": 0.0},
        "distill": {**DISTILL, "steps": 2, "keep": 0.5},
    },
}
"""What is equal by definition where batch norms are in eval mode."""

USUAL: dict[str, Any] = {
    "iterations": 4,
    "batch_size": 4,
    "checkpoint_every": 2,
    "student": {"drop_path": 0.3, "dropout": 0.3},
    "self_training": {"start": 1},
    "masking": MASKING,
}


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        World(tmp_path / "nothing").train(
            train_config(batch_size=3), tmp_path / "run", ranks=Ranks(1, 2, 1)
        )
    assert str(caught.value) == (
        "train.batch_size 3 cannot be shared by 2 processes; it is the batch of all together: set "
        "it to a multiple of 2"
    )


def test_synchronised_batch_norm_is_refused_on_the_cpu(world: World, tmp_path: Path) -> None:
    config = train_config(sync_batch_norm=True)
    with pytest.raises(ConfigError, match=r"train\.sync_batch_norm needs GPUs"):
        world.train(config, tmp_path / "two", ranks=Ranks(1, 2, 1))
    assert world.train(config, tmp_path / "one").resumed_from is None  # nothing to synchronise


@pytest.fixture(scope="module")
def done(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the functions below left behind, run in a process that forks: this one has threads."""
    out = tmp_path_factory.mktemp("ranks")
    code = "import sys; from tests.train import test_ranks as t; t.run_all(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(world.folder), str(out)]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=300)
    return out


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    """Norm of the difference of all gradients, relative to their own."""
    first, second = (torch.cat([gradient.ravel() for gradient in each]) for each in (one, other))
    return float(torch.linalg.vector_norm(first - second) / torch.linalg.vector_norm(first))


@pytest.mark.parametrize("arm", ARMS)
def test_two_ranks_compute_what_one_process_computes(done: Path, arm: str) -> None:
    one, two = (torch.load(done / f"{arm}-{count}-0.pt") for count in (1, 2))
    assert len(one["gradients"]) == len(two["gradients"]) == 3
    for single, pair in zip(one["gradients"], two["gradients"], strict=True):
        assert difference(single, pair) < 1e-5
    for row, shared in zip(one["rows"], two["rows"], strict=True):
        assert shared == pytest.approx(row, rel=1e-5)


def test_student_and_ema_model_are_the_same_bits_on_all_ranks(done: Path) -> None:
    first, second = (torch.load(done / f"all-2-{rank}.pt")["parameters"] for rank in (0, 1))
    assert_same(first, second)


def test_ranks_have_dropout_of_their_own(done: Path) -> None:
    first, second = (torch.load(done / f"usual-noise-{rank}.pt") for rank in (0, 1))
    assert len(set(first)) == len(set(second)) == USUAL["iterations"]
    assert not set(first) & set(second)


def test_a_run_of_two_ranks_resumes_bit_for_bit_with_two(done: Path) -> None:
    assert (done / "resumed-by-2-0.txt").read_text() == "2"
    assert (done / "resumed-by-2-1.txt").read_text() == "2"
    assert_same(results(done / "resumed-by-2"), results(done / "usual"))


def test_a_run_resumes_with_another_number_of_ranks(done: Path) -> None:
    assert (done / "resumed-by-1-0.txt").read_text() == "2"
    state = results(done / "resumed-by-1")["checkpoint"]
    assert state["iteration"] == USUAL["iterations"]
    assert [row["iteration"] for row in state["curves"]["rows"]] == [2, 4]


def test_all_ranks_end_when_one_fails(done: Path) -> None:
    guilty, other = ((done / f"failing-{rank}.txt").read_text() for rank in (1, 0))
    assert guilty == "ConfigError: of this rank alone"
    assert other.startswith("TrainingError: another process of this run ended")
    assert "\n" not in other
    assert float((done / "failing-seconds.txt").read_text()) < 60


def test_ranks_of_different_parameters_are_refused(done: Path) -> None:
    for rank in (0, 1):
        message = (done / f"disagreeing-{rank}.txt").read_text()
        assert message.startswith("TrainingError: the processes of this run disagree about param")


@pytest.mark.gpu
def test_synchronised_batch_norm_makes_two_gpus_compute_what_one_computes(
    world: World, tmp_path: Path
) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    code = "import sys; from tests.train import test_ranks as t; t.run_on_gpus(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(world.folder), str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=300)
    one, two = (torch.load(tmp_path / f"{count}-0.pt", map_location="cpu") for count in (1, 2))
    assert difference(one["gradients"][0], two["gradients"][0]) < 1e-3


Work = Callable[[Ranks], None]


def run_all(world_folder: str, out_folder: str) -> None:
    torch.set_num_threads(1)
    os.fsync = lambda fd: None
    world, out = World(Path(world_folder)), Path(out_folder)
    for arm, changes in ARMS.items():
        for count in (1, 2):
            ranked(count, out, lambda ranks, a=arm, c=changes: still(world, out, a, c, ranks))  # type: ignore[misc]
    ranked(2, out, lambda ranks: usual(world, out, ranks))
    for name, count in (("resumed-by-2", 2), ("resumed-by-1", 1)):
        ranked(2, out, lambda ranks, n=name: interrupted(world, out / n, ranks))  # type: ignore[misc]
        ranked(count, out, lambda ranks, n=name: resumed(world, out / n, ranks))  # type: ignore[misc]
    started = time.perf_counter()
    ranked(2, out, lambda ranks: failing(world, out, ranks))
    (out / "failing-seconds.txt").write_text(f"{time.perf_counter() - started}")
    ranked(2, out, lambda ranks: disagreeing(world, out, ranks))


def run_on_gpus(world_folder: str, out_folder: str) -> None:
    world, out = World(Path(world_folder)), Path(out_folder)
    config = train_config(**ARMS["all"], device="cuda", sync_batch_norm=True)
    for count in (1, 2):
        ranked(
            count,
            out,
            lambda ranks: record(world, out / f"{ranks.count}-{ranks.rank}.pt", config, ranks),
            backend="cpu:gloo,cuda:nccl",
        )


def ranked(count: int, out: Path, work: Work, *, backend: str = "gloo") -> None:
    """Do the work in this many processes that share a process group."""
    meeting = out / f"meeting-{time.monotonic_ns()}"

    def join(rank: int) -> None:
        if count > 1:
            dist.init_process_group(
                backend,
                init_method=f"file://{meeting}",
                rank=rank,
                world_size=count,
                timeout=timedelta(seconds=60),
            )
        work(Ranks(rank, count, rank) if count > 1 else ALONE)

    start_processes(join, nprocs=count, start_method="fork")  # type: ignore[no-untyped-call]


def still(world: World, out: Path, arm: str, changes: dict[str, Any], ranks: Ranks) -> None:
    record(world, out / f"{arm}-{ranks.count}-{ranks.rank}.pt", train_config(**changes), ranks)


def record(world: World, path: Path, config: TrainConfig, ranks: Ranks) -> None:
    """Train with batch norms in eval mode or synchronised; keep all gradients and losses."""
    device = ranks.device(config.device)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    state = world.state(config)
    networks = (state.models.student, state.models.ema, state.models.regularizer)
    present = [network for network in networks if network is not None]
    for network in present:
        network.to(device)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and not config.sync_batch_norm:
                module.eval()
    if config.sync_batch_norm and ranks.count > 1:
        for student in (state.models.student, state.models.ema):
            nn.SyncBatchNorm.convert_sync_batchnorm(student)  # type: ignore[no-untyped-call]
    gradients: list[list[Tensor]] = []
    state.optimizer.register_step_pre_hook(
        lambda optimizer, *_: gradients.append(
            [
                p.grad.clone()
                for group in optimizer.param_groups
                for p in group["params"]
                if p.grad is not None  # all but the head in distillation
            ]
        )
    )
    folder = path.with_suffix("")
    folder.mkdir()
    fit(
        config,
        state,
        world.crops(config),
        device=device,
        folder=folder,
        fingerprint="f",
        progress=silent,
        classes=world.manifest.classes.names,
        ranks=ranks,
    )
    parameters = [[each.detach() for each in network.parameters()] for network in present]
    done = {"gradients": gradients, "rows": state.curves.rows, "parameters": parameters}
    torch.save(done, path)


def usual(world: World, out: Path, ranks: Ranks) -> None:
    """Train as users do, and write down the seeds of the noise."""
    seeds: list[int] = []
    config = train_config(**USUAL)
    world.train(config, out / "usual", lambda *_: seeds.append(torch.initial_seed()), ranks=ranks)
    torch.save(seeds, out / f"usual-noise-{ranks.rank}.pt")


def interrupted(world: World, out: Path, ranks: Ranks) -> None:
    with pytest.raises(KeyboardInterrupt):
        world.train(train_config(**USUAL), out, stop_at(3), ranks=ranks)


def resumed(world: World, out: Path, ranks: Ranks) -> None:
    result = world.train(train_config(**USUAL), out, ranks=ranks)
    out.with_name(f"{out.name}-{ranks.rank}.txt").write_text(str(result.resumed_from))


def failing(world: World, out: Path, ranks: Ranks) -> None:
    def fail(iteration: int, total: int, what: str) -> None:
        if iteration == 2 and ranks.rank == 1:
            raise ConfigError("of this rank alone")

    said(world, out / "failing", train_config(**USUAL), ranks, fail)


def disagreeing(world: World, out: Path, ranks: Ranks) -> None:
    said(world, out / "disagreeing", train_config(**USUAL, seed=ranks.rank), ranks)


def said(
    world: World, out: Path, config: TrainConfig, ranks: Ranks, progress: Progress = silent
) -> None:
    try:
        world.train(config, out, progress, ranks=ranks)
    except SSRError as error:
        note = out.with_name(f"{out.name}-{ranks.rank}.txt")
        note.write_text(f"{type(error).__name__}: {error}")
