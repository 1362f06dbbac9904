"""Arms of the preset `camvid-day-to-dusk` at one CPU budget: what self-training, MIC and SSR bring.

    python -m benchmarks.compare CAMVID --out DIR --seeds 3 --warm-steps 400 --budget-steps 400

Every seed has a source-only warm start; from it each arm trains for as many steps as fit into the
CPU time of `--budget-steps` steps of DAFormer. What a step of each arm costs is measured once, in
turns, and fixed in DIR/plan.json before any arm trains: with that plan, on such a machine, results
are equal bit for bit. Whatever stops, the same command goes on: unfinished trainings from their
checkpoints, finished ones not again; more arms and seeds may join.

The teacher has random weights: expect no gain from SSR. Students are measured when they are
finished, on `dusk_val`, the only labelled images at dusk: nothing may be chosen by these numbers.
"""

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any, Final, NamedTuple

from benchmarks.compare_tables import WARM, YARDSTICK, Result, arm_table, class_table
from pipeline.arms import ARMS, overrides_of
from pipeline.params import Params, load_params
from pipeline.presets import write_preset
from pipeline.stores import run_embed
from stages.device import cpu_threads
from stages.evaluate import stage as evaluate
from stages.prepare import stage as prepare
from stages.prepare.manifest import Manifest
from stages.train import stage as train
from stages.train.dataset import end_with_parent
from store.atomic import write_bytes
from store.errors import ConfigError, SSRError
from store.fingerprint import fingerprint_of

PRESET: Final = "camvid-day-to-dusk"
ROUNDS, SETTLE, STEPS = 3, 2, 4
"""Of the measurement: turns of each arm, and its steps in a turn, before and while it is timed."""

ALWAYS: Final = (
    *("embed.device=cpu", "embed.threads=1", "train.device=cpu", "train.threads=1"),
    *("train.checkpoint_every=50", "train.validate_every=0"),  # nobody looks at dusk_val meanwhile
    *("evaluate.domain=target", "evaluate.split=val", "evaluate.pictures=0", "evaluate.device=cpu"),
)
NOTE: Final = (
    "The teacher is UNTRAINED (random weights): no gain is to be expected from SSR. Measured on "
    "dusk_val, of which neighbouring frames resemble each other; there is no other labelled split "
    "at dusk, so these numbers must choose nothing."
)


class Run(NamedTuple):
    """A training from its parameters to its metrics."""

    arm: str
    seed: int
    params: Params
    folder: Path
    data: Path


class Workplace(NamedTuple):
    """Folder of a comparison and the values that all its runs share."""

    out: Path
    overrides: Sequence[str]

    def run(self, arm: str, seed: int, iterations: int) -> Run:
        """Describe the run of an arm; all but the warm start begin where that one ended."""
        runs = self.out / "runs" / f"seed{seed}"
        start = None if arm == WARM else str(runs / WARM / "student")
        params = self.params(
            "source-only" if arm == WARM else arm,
            f"train.seed={seed}",
            f"train.iterations={iterations}",
            f"train.init={json.dumps(start)}",
        )
        return Run(arm, seed, params, runs / arm, self.out / "data")

    def params(self, arm: str, *values: str) -> Params:
        """Return the preset's parameters with those of an arm and further values."""
        store = f"store.url={json.dumps(str(self.out / 'data' / 'features'))}"
        given = (*ALWAYS, store, *self.overrides, *overrides_of(arm), *values)
        return load_params(self.out / "params.yaml", given)


def compare(place: Workplace, options: argparse.Namespace) -> str:
    """Do what is not yet done; return the tables, which are also written beside the runs."""
    seeds = range(options.seeds)
    make_data(place.params("ssr"), place.out / "data")
    iterations: Mapping[str, int] = planned(place, options)["iterations"]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, spawn, initializer=end_with_parent) as pool:
        results = finish([place.run(WARM, seed, options.warm_steps) for seed in seeds], pool)
        results += finish(
            [place.run(arm, seed, iterations[arm]) for seed in seeds for arm in options.arms], pool
        )
    tables = "\n\n".join((NOTE, arm_table(results), class_table(results))) + "\n"
    write_bytes(place.out / "results.json", json.dumps(results, indent=1).encode() + b"\n")
    write_bytes(place.out / "results.md", tables.encode())
    return tables


def make_data(params: Params, data: Path) -> None:
    """List the images and embed them; looks at file times where that is done."""
    prepare.run(
        params.prepare,
        at_least_px=params.train.crop_px,
        skip_bad=False,
        out=data / "manifest.parquet",
        cache=data / "scan-cache.parquet",
        progress=_silent,
    )
    manifest = Manifest.read(data / "manifest.parquet")
    run_embed(params, manifest, index_path=data / "index.json", progress=_silent, step="all")


def planned(place: Workplace, options: argparse.Namespace) -> dict[str, Any]:
    """Read the plan, or measure and write it: iterations of each arm for equal CPU time.

    Raises:
        ConfigError: If there is a plan of other settings.
    """
    path = place.out / "plan.json"
    settings = {
        "budget_steps": options.budget_steps,
        "warm_steps": options.warm_steps,
        "params": fingerprint_of(place.params("ssr").model_dump(mode="json")),  # data, -S, preset
    }
    if path.exists():
        plan: dict[str, Any] = json.loads(path.read_text())
        if plan["settings"] != settings:
            raise ConfigError(
                f"{path} was made with other steps, -S or params.yaml: repeat those, or take "
                "another --out"
            )
        return plan
    seconds = step_seconds(place)
    budget = options.budget_steps * seconds[YARDSTICK]
    iterations = {arm: max(1, round(budget / each)) for arm, each in seconds.items()}
    plan = {"settings": settings, "cpu_s_per_step": seconds, "iterations": iterations}
    write_bytes(path, json.dumps(plan, indent=1).encode() + b"\n")
    return plan


def step_seconds(place: Workplace) -> dict[str, float]:
    """Median CPU seconds of a step of each arm, its data included; arms take turns."""
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in range(ROUNDS):
        for arm in ARMS:
            ticks: list[float] = []
            # One step more than is timed: the last one writes the checkpoint.
            params = place.params(arm, f"train.iterations={SETTLE + STEPS + 1}")
            with TemporaryDirectory() as folder:
                run = Run(arm, 0, params, Path(folder), place.out / "data")
                trained(run, lambda *_, ticks=ticks: ticks.append(process_time()))
            timed = ticks[SETTLE - 1 : SETTLE + STEPS]
            seconds[arm] += [after - before for before, after in pairwise(timed)]
    return {arm: statistics.median(each) for arm, each in seconds.items()}


def finish(runs: Sequence[Run], pool: Executor) -> list[Result]:
    """Bring runs to their end, as many at a time as the pool has processes."""
    running = [pool.submit(finished, run) for run in runs]
    try:
        for done in as_completed(running):
            print("{arm}, seed {seed}: {miou:.2f}".format(**done.result()), flush=True)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)  # or the pool would train all the others
        raise
    return [each.result() for each in running]


def finished(run: Run) -> Result:
    """Train and measure, as far as that is not done.

    Returns:
        What the tables need; `cpu_s` is null where a training was interrupted.
    """
    path = run.folder / "result.json"
    if not path.exists():
        resumes, started = (run.folder / "checkpoint.pt").exists(), process_time()
        trained(run, _silent)
        cpu_s = None if resumes else process_time() - started
        with cpu_threads(1):
            metrics = evaluate.run(
                run.params.evaluate,
                manifest=Manifest.read(run.data / "manifest.parquet"),
                roots=run.params.prepare.roots,
                student=run.folder / "student",
                out=run.folder,
                progress=_silent,
            ).metrics
        iterations = run.params.train.iterations
        result = {"arm": run.arm, "seed": run.seed, "iterations": iterations, "cpu_s": cpu_s}
        result |= {"miou": metrics.miou, "iou": dict(metrics.iou)}
        write_bytes(path, json.dumps(result, indent=1).encode() + b"\n")
    loaded: Result = json.loads(path.read_text())
    return loaded


def trained(run: Run, progress: Callable[[int, int, str], None]) -> None:
    """Train, or go on from the checkpoint in the run's folder."""
    train.run(
        run.params.train,
        manifest_path=run.data / "manifest.parquet",
        roots=run.params.prepare.roots,
        store_url=run.params.store.location,
        index_path=run.data / "index.json",
        out=run.folder,
        progress=progress,
        sources=run.params.prepare.domains,
    )


def _silent(done: int, total: int, what: str) -> None:
    pass


def main() -> None:
    """Compare, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, help="folder with day_train, day_val, dusk_train and dusk_val")
    add("--out", type=Path, required=True, help="folder of this comparison")
    add("--seeds", type=int, default=3, help="seeds 0, 1, ...")
    add("--warm-steps", type=int, default=400, help="source-only, before all arms of a seed")
    add("--budget-steps", type=int, default=400, help="steps of DAFormer whose CPU time each gets")
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    add("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    add(
        "-S", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="in all runs"
    )
    options = parser.parse_args()
    out, data = options.out.resolve(), str(options.data.resolve())
    try:
        write_preset(PRESET, out / "params.yaml", arm="ssr", roots={"source": data, "target": data})
        print(compare(Workplace(out, options.overrides), options), end="")
    except SSRError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
