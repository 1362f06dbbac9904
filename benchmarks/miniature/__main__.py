"""Does the teacher help? All arms on drawn worlds, several seeds, equal starts.

    python -m benchmarks.miniature --out DIR                       # validation: choose by this
    python -m benchmarks.miniature --out DIR --exam test --first-seed 21 --seeds 5

Every seed draws worlds of its own: 400 images by day with labels, 400 at dusk without, and those to
be scored on, at dusk, in fog and by night. From a source-only student of that seed all arms train
for the same number of steps, but for one DAFormer that gets the CPU time of `guided`: its steps
come from a ratio that is measured once, in turns, and fixed in DIR/plan.json. Whatever stops, the
same command goes on; finished trainings are not done again, and more seeds and arms may join, on
another machine too: `--known` takes over the results of an earlier piece.

`--exam test` wants every change committed, and each result notes the commit that it was made with:
all choices are made before the test images are drawn.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, cast

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from benchmarks.miniature.arms import (
    ALL_ARMS,
    ARMS,
    BASELINE,
    EQUAL_TIME,
    FROM_NOTHING,
    GUIDED,
    TIMED,
)
from benchmarks.miniature.place import Exam, Place
from benchmarks.miniature.plot import plot
from benchmarks.miniature.tables import difference_table, health_table
from benchmarks.miniature.vit import write_vit
from benchmarks.runs import (
    Result,
    Run,
    as_they_end,
    finish,
    kept_plan,
    make_data,
    positive,
    step_seconds,
    workers,
)
from benchmarks.tables import MOST_SEEDS, arm_table, class_table
from pipeline.init import write_preset
from store.atomic import write_bytes, write_text
from store.errors import ConfigError, SSRError
from store.fingerprint import fingerprint_of

_ORDER: Final = {name: position for position, name in enumerate(ALL_ARMS)}


class Plan(TypedDict):
    """What is fixed before any arm trains."""

    settings: dict[str, object]
    cpu_s_per_step: dict[str, float]
    ratio: float
    longer: int


class Noted(TypedDict):
    """`val.json` and `test.json`: results, what they are of, and the plan behind them."""

    exam: Exam
    plan: Plan
    results: list[Result]


def experiment(place: Place, options: argparse.Namespace) -> str:
    """Do what is not yet done; return the tables, which are also written into the folder."""
    commit = clean_commit() if place.exam == "test" else None
    earlier = Earlier.read(options.known, place.exam)
    plan = planned(place, options, earlier.plan)
    runs = [
        run._replace(commit=commit)
        for run in runs_of(place, options, plan)
        if (run.arm, run.seed) not in earlier.results
    ]
    results = [*earlier.results.values(), *train(runs, place, options)]
    results.sort(key=lambda result: (_ORDER.get(result["arm"], len(_ORDER)), result["seed"]))
    return publish(results, plan, place)


def runs_of(place: Place, options: argparse.Namespace, plan: Plan) -> list[Run]:
    """Describe the trainings that are asked for."""
    steps = dict.fromkeys(options.arms, options.steps)
    steps |= dict.fromkeys(FROM_NOTHING, options.warm_steps + options.steps)
    steps[EQUAL_TIME] = plan["longer"]
    return [
        place.run(name, seed, steps[name])
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for name in options.arms
    ]


def train(runs: Sequence[Run], place: Place, options: argparse.Namespace) -> list[Result]:
    """Draw and embed the worlds of the runs, train their starts, then the runs."""
    starts = dict.fromkeys(run.seed for run in runs if run.arm not in FROM_NOTHING)
    drawn = {data: params for params, data in (place.world(seed, "drawn") for seed in starts)}
    others = {run.data: run.params for run in runs if run.data not in drawn}
    if any(ALL_ARMS[run.arm].world == "enlarged" for run in runs):
        write_vit(place.vit)
    with workers(options.jobs) as pool:
        for worlds in (drawn, others):  # others find the stores of the former
            made = [pool.submit(make_data, params, data) for data, params in worlds.items()]
            for _ in as_they_end(made, pool):
                pass
        finish([place.warm(seed, options.warm_steps) for seed in starts], pool)
        return finish(runs, pool)


def publish(results: Sequence[Result], plan: Plan, place: Place) -> str:
    """Write results, tables and plot into the folder; return the tables."""
    commits = ", ".join(sorted({str(result["commit"]) for result in results}))
    about = (
        f"Images: {place.exam}. In guided's CPU time DAFormer makes {plan['ratio']:.2f} of its "
        f"steps. Commits: {commits}."
    )
    tables = (
        arm_table(results, BASELINE),
        difference_table(results),
        class_table(results),
        health_table(results, place.folder),
    )
    text = "\n\n".join(filter(None, (about, *tables))) + "\n"
    noted = Noted(exam=place.exam, plan=plan, results=list(results))
    write_bytes(place.out / f"{place.exam}.json", json.dumps(noted, indent=1).encode() + b"\n")
    write_text(place.out / f"{place.exam}.md", text)
    write_text(place.out / f"{place.exam}.svg", plot(results, place.exam))
    return text


class Earlier(NamedTuple):
    """What an earlier piece of the experiment has found, wherever it ran.

    Attributes:
        plan: Its plan; None if there is no earlier piece.
        results: (arm, seed) -> result.
    """

    plan: Plan | None
    results: dict[tuple[str, int], Result]

    @classmethod
    def read(cls, path: Path | None, exam: Exam) -> "Earlier":
        """Read the `val.json` or `test.json` of that piece.

        Raises:
            ConfigError: If it is none, or of other images.
        """
        if path is None:
            return cls(None, {})
        try:
            noted = TypeAdapter(Noted).validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ConfigError(
                f"{path}: --known names a test.json or val.json that this command wrote"
            ) from error
        if (of := noted["exam"]) != exam:
            raise ConfigError(f"{path}: is of {of} images; give --exam {of} or other results")
        return cls(noted["plan"], {(each["arm"], each["seed"]): each for each in noted["results"]})


def planned(place: Place, options: argparse.Namespace, earlier: Plan | None) -> Plan:
    """Read the plan, take over an earlier piece's, or measure how long the longer DAFormer trains.

    Raises:
        ConfigError: If there is a plan of other settings, or of other measurements than earlier.
    """
    path, seed = place.out / "plan.json", options.first_seed
    settings = {
        "steps": options.steps,
        "warm_steps": options.warm_steps,
        "params": fingerprint_of(place.choices()),
    }
    kept = cast("Plan | None", kept_plan(path, settings, "--steps, --warm-steps"))
    if earlier is not None and earlier["settings"] != settings:
        raise ConfigError(
            f"{options.known}: is of other --steps, --warm-steps, -S, arms or params.yaml"
        )
    if earlier is not None and kept is not None and earlier != kept:
        raise ConfigError(
            f"{path}: is another plan than that of {options.known}; take another --out"
        )
    if kept is not None:
        return kept
    if earlier is not None:
        write_bytes(path, json.dumps(earlier, indent=1).encode() + b"\n")
        return earlier
    make_data(*place.world(seed, "drawn"))
    seconds = step_seconds({name: partial(place.timed, name, seed) for name in TIMED})
    ratio = seconds[GUIDED] / seconds[BASELINE]
    plan = Plan(
        settings=settings,
        cpu_s_per_step=seconds,
        ratio=ratio,
        longer=round(ratio * options.steps),
    )
    write_bytes(path, json.dumps(plan, indent=1).encode() + b"\n")
    return plan


def clean_commit() -> str:
    """Return the commit that is checked out.

    Raises:
        ConfigError: If anything is not committed.
    """
    try:
        changes, commit = _git("status", "--porcelain"), _git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError("--exam test notes the commit: run it in a clone, with git") from error
    if changes:
        raise ConfigError(
            "there are changes that are not committed: the test images are for what was chosen "
            "before; commit it, or take --exam val"
        )
    return commit[:12]


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True
    ).stdout.strip()


def main() -> None:
    """Run the experiment, and print its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the experiment")
    add("--exam", choices=("val", "test"), default="val", help="images to score on")
    seeds = range(1, MOST_SEEDS + 1)
    add("--seeds", type=int, default=5, choices=seeds, metavar="N", help="number of seeds")
    add("--first-seed", type=int, default=1, help="the others count up from it")
    add("--steps", type=positive, default=500, help=f"of each arm; {EQUAL_TIME} gets what fits it")
    add("--warm-steps", type=positive, default=1600, help="source-only, before all arms of a seed")
    names = "; ".join(ALL_ARMS)
    add("--arms", nargs="+", choices=ALL_ARMS, default=list(ARMS), metavar="ARM", help=names)
    add("--known", type=Path, help="test.json or val.json of an earlier piece, not to be run again")
    add("--jobs", type=positive, default=2, help="trainings at a time, one thread each")
    overrides = "a value of params.yaml, in all runs"
    add("-S", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help=overrides)
    options = parser.parse_args()
    out = options.out.resolve()
    try:
        write_preset("drawn", out / "params.yaml", arm="ssr", roots={})
        print(experiment(Place(out, options.exam, options.overrides), options), end="")
    except (SSRError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
