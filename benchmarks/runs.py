"""Trainings that are compared: each is finished once, however often the command is stopped."""

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any, Final, NamedTuple, TypeVar

from typing_extensions import TypedDict  # pydantic wants it before Python 3.12

from benchmarks.feeds import FeedName, feed_of
from pipeline.params import Params
from pipeline.presets import changes_of, dump
from pipeline.project import Project
from stages.device import cpu_threads
from stages.evaluate import stage as evaluate
from stages.prepare import stage as prepare
from stages.prepare.manifest import Manifest
from stages.student.metrics import Metrics
from stages.train import stage as train
from stages.train.crops import end_with_parent
from stages.train.validate import choose_validation
from store.atomic import write_bytes
from store.errors import ConfigError
from store.fingerprint import fingerprint_of

ON_ONE_THREAD: Final = (
    *("embed.device=cpu", "embed.threads=1", "train.device=cpu", "train.threads=1"),
    *("train.checkpoint_every=50", "train.validate_every=0"),  # nobody looks at labels meanwhile
    *("evaluate.pictures=0", "evaluate.device=cpu"),
)
"""Values of every run: one thread each, so that CPU seconds are seconds of the run."""

ROUNDS: Final = 3
"""Turns of each arm when its steps are timed."""
SETTLE, STEPS = 2, 4
"""Steps of a turn: not yet timed, and timed."""


T = TypeVar("T")


def overrides_of(arm: str) -> tuple[str, ...]:
    """Return the changes of an arm as `-S` takes them, for the params of a preset."""
    return tuple(
        f"train.{key}={dump({key: value}).partition(': ')[2].strip()}"
        for key, value in changes_of(arm).items()
    )


class Score(TypedDict):
    """Mean IoU and IoU by class, in percent; null where a class is never labelled nor predicted.

    The mean is that of the first of `evaluate.subsets`, or of all classes where there is none.
    """

    miou: float
    iou: dict[str, float | None]


class Result(Score):
    """A finished run: its score on the first dataset, and on `others` by name.

    `cpu_s` is null where the training was interrupted, `commit` (at which it was trained) where
    nobody asked for it.
    """

    arm: str
    seed: int
    iterations: int
    cpu_s: float | None
    others: dict[str, Score]
    commit: str | None


class _Trained(TypedDict):
    """What is noted beside a student when its training has ended."""

    key: str
    cpu_s: float | None
    commit: str | None


class Run(NamedTuple):
    """A training from its parameters to its scores.

    Attributes:
        arm: Its name.
        seed: Its seed.
        params: All sections.
        folder: Of the training.
        data: Folder of manifest, index and stores.
        feed: Where the teacher's features come from, see `benchmarks.feeds`.
        exam: Folder below `folder` that the scores go to.
        commit: Of the code; noted with what is trained.
    """

    arm: str
    seed: int
    params: Params
    folder: Path
    data: Path
    feed: FeedName = "stored"
    exam: str = "."
    commit: str | None = None

    @property
    def key(self) -> str:
        """Say what its training is made of: no other may be taken for it."""
        return fingerprint_of([self.params.train.model_dump(mode="json"), self.feed])[:12]


def make_data(params: Params, data: Path) -> None:
    """List the images, restyle, embed and label them; looks at files where that is done."""
    prepare.run(
        params.prepare,
        out=data / "manifest.parquet",
        cache=data / "scan-cache.parquet",
        progress=_silent,
    )
    project = Project(params, data)
    project.restyle(_silent)
    project.embed(_silent)
    project.label(_silent)


def workers(jobs: int) -> ProcessPoolExecutor:
    """Start processes that end with this one."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, spawn, initializer=end_with_parent)


def finish(runs: Iterable[Run], pool: Executor) -> list[Result]:
    """Bring runs to their end, as many at a time as the pool has processes."""
    running = [pool.submit(result_of, run) for run in runs]
    for result in as_they_end(running, pool):
        print("{arm}, seed {seed}: {miou:.2f}".format(**result), flush=True)
    return [each.result() for each in running]


def as_they_end(futures: Iterable[Future[T]], pool: Executor) -> Iterator[T]:
    """Yield results; where one is an error, the others are not begun."""
    try:
        for done in as_completed(futures):
            yield done.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def result_of(run: Run) -> Result:
    """Train and measure, as far as that is not done.

    Raises:
        ConfigError: If there is another training in the run's folder.
    """
    path, trained = run.folder / run.exam / "result.json", _trained(run)
    if not path.exists():
        with cpu_threads(1):
            scores = evaluate.run(
                run.params.evaluate,
                manifest=Manifest.read(run.data / "manifest.parquet"),
                roots=run.params.prepare.roots,
                student=run.folder / "student",
                out=run.folder / run.exam,
                progress=_silent,
            )
        iterations, (first, *rest) = run.params.train.iterations, scores.values()
        names = list(scores)[1:]
        others = {n: _score(each) for n, each in zip(names, rest, strict=True)}
        result = Result(
            arm=run.arm,
            seed=run.seed,
            iterations=iterations,
            cpu_s=trained["cpu_s"],
            **_score(first),
            others=others,
            commit=trained["commit"],
        )
        write_bytes(path, json.dumps(result, indent=1).encode() + b"\n")
    loaded: Result = json.loads(path.read_text())
    return loaded


def kept_plan(path: Path, settings: object, options: str) -> dict[str, Any] | None:
    """Read the plan of a comparison; None if there is none yet.

    Args:
        path: The plan.
        settings: What it must have been made with.
        options: What they come from, for the message.

    Raises:
        ConfigError: If it was made with others, or is damaged.
    """
    if not path.exists():
        return None
    try:
        plan: dict[str, Any] = json.loads(path.read_text())
        made_with = plan["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: is damaged; take another --out") from error
    if made_with != settings:
        raise ConfigError(
            f"{path} was made with other {options}, -S or params.yaml: repeat those, or take "
            "another --out"
        )
    return plan


def step_seconds(arms: Mapping[str, Callable[[int, Path], Run]]) -> dict[str, float]:
    """Median CPU seconds of a step of each arm, its data included; arms take turns.

    Args:
        arms: Name -> (iterations, folder) -> a run of the arm.
    """
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(ROUNDS):
        for arm, run_of in arms.items():
            ticks: list[float] = []
            with TemporaryDirectory() as folder:
                # One step more than is timed: the last one writes the checkpoint.
                run = run_of(SETTLE + STEPS + 1, Path(folder))
                train_run(run, lambda *_, ticks=ticks: ticks.append(process_time()))
            timed = ticks[SETTLE - 1 : SETTLE + STEPS]
            seconds[arm] += [after - before for before, after in pairwise(timed)]
    return {arm: statistics.median(each) for arm, each in seconds.items()}


def train_run(run: Run, progress: Callable[[int, int, str], None]) -> None:
    """Train, or go on from the checkpoint in the run's folder."""
    config, workspace = run.params.train, Project(run.params, run.data).workspace
    validation = None
    if config.validate_every:
        validation, _ = choose_validation(config, Manifest.read(workspace.manifest), workspace)
    train.run(
        config,
        workspace=workspace,
        out=run.folder,
        progress=progress,
        validation=validation,
        feed=feed_of(run.feed, run.params),
    )


def positive(text: str) -> int:
    """Parse an option that counts something.

    Raises:
        argparse.ArgumentTypeError: If it is no whole number above 0.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def _trained(run: Run) -> _Trained:
    """Train if that is not done."""
    path = run.folder / "trained.json"
    if not path.exists():
        resumes, started = (run.folder / "checkpoint.pt").exists(), process_time()
        train_run(run, _silent)
        cpu_s = None if resumes else process_time() - started
        new = _Trained(key=run.key, cpu_s=cpu_s, commit=run.commit)
        write_bytes(path, json.dumps(new).encode() + b"\n")
    noted: _Trained = json.loads(path.read_text())
    if noted.get("key") != run.key:
        raise ConfigError(
            f"{run.folder}: has a training of other params or of another arm; move it away, or "
            "take another --out"
        )
    return noted


def _score(metrics: Metrics) -> Score:
    miou = next(iter(metrics.subsets.values()), metrics.miou)
    if miou is None:
        raise ConfigError("no class of the first of evaluate.subsets is labelled or predicted")
    return Score(miou=miou, iou=dict(metrics.iou))


def _silent(done: int, total: int, what: str) -> None:
    pass
