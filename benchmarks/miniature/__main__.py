"""Does the teacher help? All arms on drawn worlds, several seeds, equal starts.

    python -m benchmarks.miniature --out DIR                       # validation: choose by this
    python -m benchmarks.miniature --out DIR --exam test --first-seed 21 --seeds 5

Every seed draws worlds of its own: 400 images by day with labels, 400 at dusk without, and those to
be scored on, at dusk, in fog and by night. From a source-only student of that seed all arms train
for the same number of steps, but for one DAFormer that gets the CPU time of `guided`: its steps
come from a ratio that is measured once, in turns, and fixed in DIR/plan.json. Whatever stops, the
same command goes on; finished trainings are not done again, and more seeds and arms may join, on
another machine too: `--known` takes over the results of an earlier piece.

`--exam test` wants every change committed, and notes the commit: what is chosen is chosen before.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.miniature.arms import ARMS, GUIDED, LONGER, MORE, TIMED, YARDSTICK
from benchmarks.miniature.place import Place
from benchmarks.miniature.plot import plot
from benchmarks.miniature.tables import arm_table, difference_table
from benchmarks.runs import Result, finish, kept_plan, make_data, step_seconds, workers
from benchmarks.tables import class_table
from pipeline.presets import write_preset
from store.atomic import write_bytes, write_text
from store.errors import ConfigError, SSRError
from store.fingerprint import fingerprint_of


def experiment(place: Place, options: argparse.Namespace) -> str:
    """Do what is not yet done; return the tables, which are also written into the folder."""
    commit = clean_commit() if place.exam == "test" else None
    known = Known.read(options.known)
    plan = planned(place, options, known.plan)
    runs = [
        place.run(name, seed, plan["longer"] if name == LONGER else options.steps)
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for name in chosen(options.arms)
        if (name, seed) not in known.results
    ]
    with workers(options.jobs) as pool:
        worlds = [(run.seed, (ARMS | MORE)[run.arm].world) for run in runs]
        made = [pool.submit(make_data, *place.world(*each)) for each in dict.fromkeys(worlds)]
        for each in made:
            each.result()
        seeds = dict.fromkeys(run.seed for run in runs)
        finish([place.warm(seed, options.warm_steps) for seed in seeds], pool)
        new = [{**result, "commit": commit} for result in finish(runs, pool)]
    order = list(ARMS | MORE)
    results = sorted(
        (*known.results.values(), *new),
        key=lambda result: (order.index(result["arm"]), result["seed"]),
    )
    about = (
        f"Images: {place.exam}. In guided's CPU time DAFormer makes {plan['ratio']:.2f} of its "
        f"steps. Commits: {', '.join(sorted({str(result['commit']) for result in results}))}."
    )
    tables = (about, arm_table(results), difference_table(results), class_table(results))
    text = "\n\n".join(tables) + "\n"
    noted = {"plan": plan, "results": results}
    write_bytes(place.out / f"{place.exam}.json", json.dumps(noted, indent=1).encode() + b"\n")
    write_text(place.out / f"{place.exam}.md", text)
    write_text(place.out / f"{place.exam}.svg", plot(results, place.exam))
    return text


class Known(NamedTuple):
    """What an earlier piece of the experiment has found, wherever it ran.

    Attributes:
        plan: Its plan; None if there is no earlier piece.
        results: (arm, seed) -> result.
    """

    plan: dict[str, Any] | None
    results: dict[tuple[str, int], Result]

    @classmethod
    def read(cls, path: Path | None) -> "Known":
        """Read the `val.json` or `test.json` of that piece.

        Raises:
            ConfigError: If it is none.
        """
        if path is None:
            return cls(None, {})
        try:
            noted = json.loads(path.read_text())
            return cls(noted["plan"], {(r["arm"], r["seed"]): r for r in noted["results"]})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}: --known names a test.json or val.json that this command wrote"
            ) from error


def chosen(names: Sequence[str] | None) -> dict[str, Any]:
    """Return the arms of the given names, all of the experiment by default."""
    return dict(ARMS) if names is None else {name: (ARMS | MORE)[name] for name in names}


def planned(
    place: Place, options: argparse.Namespace, known: dict[str, Any] | None
) -> dict[str, Any]:
    """Read the plan, take over a known one, or measure: steps of all arms and the longer DAFormer.

    Raises:
        ConfigError: If there is a plan of other settings.
    """
    path, seed = place.out / "plan.json", options.first_seed
    settings = {
        "steps": options.steps,
        "warm_steps": options.warm_steps,
        "params": fingerprint_of(place.choices()),
    }
    if known is not None and not path.exists():
        write_bytes(path, json.dumps(known, indent=1).encode() + b"\n")
    kept = kept_plan(path, settings, "--steps, --warm-steps")
    if kept is not None:
        return kept
    make_data(*place.world(seed, "drawn"))
    seconds = step_seconds({name: partial(place.timed, name, seed) for name in TIMED})
    ratio = seconds[GUIDED] / seconds[YARDSTICK]
    plan = {
        "settings": settings,
        "cpu_s_per_step": seconds,
        "ratio": ratio,
        "longer": round(ratio * options.steps),
    }
    write_bytes(path, json.dumps(plan, indent=1).encode() + b"\n")
    return plan


def clean_commit() -> str:
    """Return the commit that is checked out.

    Raises:
        ConfigError: If anything is not committed.
    """
    if _git("status", "--porcelain"):
        raise ConfigError(
            "there are changes that are not committed: the test images are for what was chosen "
            "before; commit it, or take --exam val"
        )
    return _git("rev-parse", "HEAD")[:12]


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=Path(__file__).parent, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def main() -> None:
    """Run the experiment, and print its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the experiment")
    add("--exam", choices=("val", "test"), default="val", help="images to score on")
    add("--seeds", type=int, default=5, help="how many")
    add("--first-seed", type=int, default=1, help="the others follow it")
    add("--steps", type=int, default=500, help="of each arm but the longer DAFormer")
    add("--warm-steps", type=int, default=1600, help="source-only, before all arms of a seed")
    names = [*ARMS, *MORE]
    add("--arms", nargs="+", choices=names, metavar="ARM", help="; ".join(names))
    add("--known", type=Path, help="test.json or val.json of an earlier piece, not to be run again")
    add("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    add("-S", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="of all")
    options = parser.parse_args()
    out = options.out.resolve()
    try:
        roots = dict.fromkeys(("source", "target"))
        write_preset("drawn", out / "params.yaml", arm="ssr", roots=roots)
        print(experiment(Place(out, options.exam, options.overrides), options), end="")
    except SSRError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
