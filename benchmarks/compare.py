"""Arms of the preset `camvid-day-to-dusk` at one CPU budget: what self-training, MIC and SSR bring.

    python -m benchmarks.compare CAMVID --out DIR --seeds 3 --warm-steps 400 --budget-steps 400

Every seed has a source-only warm start; from it each arm trains for as many steps as fit into the
CPU time of `--budget-steps` steps of DAFormer, or, with `--equal steps`, for as many steps. What a
step of each arm costs is measured once, in turns, and fixed in DIR/plan.json before any arm trains:
with that plan, on such a machine, results are equal bit for bit. Whatever stops, the same command
goes on: unfinished trainings from their checkpoints, finished ones not again; more arms and seeds
may join, and arms with other values and images: `--variant NAME ARM KEY=VALUE ...`. With
`-S train.validate_every=N -S 'embed.splits=[train,val]'` each run also leaves a `validation.csv`
with the wrong-teacher test; its time is the run's.

Students are measured when they are finished, on `dusk_val`, the only labelled images at dusk: do
not choose anything by these numbers.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.feeds import FeedName
from benchmarks.runs import (
    ON_ONE_THREAD,
    Run,
    finish,
    kept_plan,
    make_data,
    overrides_of,
    positive,
    step_seconds,
    workers,
)
from benchmarks.tables import MOST_SEEDS, arm_table, class_table
from pipeline.init import write_preset
from pipeline.params import Params, load_params
from pipeline.presets import ARMS
from pipeline.tables import UNTRAINED
from store.atomic import write_bytes
from store.errors import ConfigError, SSRError
from store.fingerprint import fingerprint_of

PRESET: Final = "camvid-day-to-dusk"
WARM: Final = "warm-start"
BASELINE: Final = "daformer"
ALWAYS: Final = (*ON_ONE_THREAD, "evaluate.domain=target", "evaluate.split=val")
NOTE: Final = (
    "Measured on dusk_val, of which neighbouring frames resemble each other; there is no other "
    "labelled split at dusk: do not choose anything by these numbers. Means are over the ten "
    "classes that it shows, evaluate.subsets.mIoU10: it has no fence."
)


class Variant(NamedTuple):
    """An arm, or one with further values of parameters, under a name and with data of its own."""

    name: str
    arm: str
    values: Sequence[str] = ()

    @classmethod
    def of(cls, given: Sequence[str]) -> "Variant":
        """Read what follows `--variant`.

        Raises:
            ConfigError: If that is not a name, an arm and values.
        """
        name, arm, *values = given if len(given) > 1 else ("", "")
        if arm not in ARMS or name in {WARM, *ARMS} or not re.fullmatch(r"[\w, -]+", name):
            raise ConfigError(
                "--variant takes a name of letters, an arm and values, as in --variant clean "
                f"source-only train.restyled=null; the arms are {', '.join(ARMS)}"
            )
        return cls(name, arm, values)


class Workplace(NamedTuple):
    """Folder of a comparison and the values that all its runs share."""

    out: Path
    overrides: Sequence[str]
    feed: FeedName = "stored"

    def run(self, variant: Variant, seed: int, iterations: int) -> Run:
        """Describe a run; all but the warm start begin where that one ended."""
        name, arm, values = variant
        runs = self.out / "runs" / f"seed{seed}"
        start = None if name == WARM else str(runs / WARM / "student")
        params = self.params(
            arm,
            f"train.seed={seed}",
            f"train.iterations={iterations}",
            f"train.init={json.dumps(start)}",
            *values,
        )
        shuffled = name != WARM and self.feed == "shuffled"
        folder = runs / (f"{name}-shuffled" if shuffled else name)
        data = self.out / (f"data-{name}" if values else "data")
        return Run(name, seed, params, folder, data, self.feed if shuffled else "stored")

    def require_same(self, variant: Variant) -> None:
        """Note the values of a variant where its data go.

        Raises:
            ConfigError: If others are noted there.
        """
        if variant.values:
            params = self.params(variant.arm, *variant.values).model_dump(mode="json")
            path, settings = self.out / f"data-{variant.name}" / "plan.json", fingerprint_of(params)
            if kept_plan(path, settings, "values") is None:
                write_bytes(path, json.dumps({"settings": settings}).encode() + b"\n")

    def timed(self, arm: str, iterations: int, folder: Path) -> Run:
        """Describe a run of an arm from its own start."""
        distils = self.params(arm).train.distill is not None
        brief = ("train.distill.steps=1",) if distils else ()  # steps of the task are timed
        params = self.params(arm, f"train.iterations={iterations}", *brief)
        return Run(arm, 0, params, folder, self.out / "data")

    def fits(self, arm: str) -> bool:
        """Tell whether the preset's student can be trained by an arm, as SeMask needs a MiT."""
        try:
            self.params(arm)
        except ConfigError:
            return False
        return True

    def params(self, arm: str, *values: str) -> Params:
        """Return the preset's parameters with those of an arm and further values."""
        store = f"store.url={json.dumps(str(self.out / 'data' / 'features'))}"
        given = (*ALWAYS, store, *self.overrides, *overrides_of(arm), *values)
        return load_params(self.out / "params.yaml", given)


def compare(place: Workplace, options: argparse.Namespace) -> str:
    """Do what is not yet done; return the tables, which are also written beside the runs."""
    seeds = range(options.seeds)
    fitting = [arm for arm in ARMS if place.fits(arm)]
    given = [Variant.of(words) for words in options.variants]
    arms = options.arms or ([] if given else fitting)
    variants = [*(Variant(arm, arm) for arm in arms), *given]
    for variant in variants:
        place.params(variant.arm, *variant.values)  # refuses one that does not fit before any work
    # Where time is equal, steps of all arms that fit are timed.
    used = fitting if options.equal == "time" else [v.arm for v in variants if not v.values]
    labelled = [arm for arm in used if place.params(arm).wanted_label]
    shared = place.out / "data"
    make_data(place.params(labelled[0] if labelled else "ssr"), shared)
    iterations: Mapping[str, int] = planned(place, options)["iterations"]
    warm = Variant(WARM, "source-only")
    untimed = [each.arm for each in variants if each.arm not in iterations]
    if untimed:
        raise ConfigError(
            f"{untimed[0]} cannot be timed without the values of its variant: take --equal steps"
        )
    for variant in variants:
        place.require_same(variant)
    runs = [place.run(each, seed, iterations[each.arm]) for seed in seeds for each in variants]
    for data, params in {run.data: run.params for run in runs if run.data != shared}.items():
        make_data(params, data)
    with workers(options.jobs) as pool:
        results = finish([place.run(warm, seed, options.warm_steps) for seed in seeds], pool)
        results += finish(runs, pool)
    untrained = place.params("ssr").embed.teacher.weights == "random"
    notes = [f"{UNTRAINED}.", NOTE] if untrained else [NOTE]
    tables = "\n\n".join((*notes, arm_table(results, BASELINE), class_table(results))) + "\n"
    name = "results" if place.feed == "stored" else "results-shuffled"
    write_bytes(place.out / f"{name}.json", json.dumps(results, indent=1).encode() + b"\n")
    write_bytes(place.out / f"{name}.md", tables.encode())
    return tables


def planned(place: Workplace, options: argparse.Namespace) -> dict[str, Any]:
    """Read the plan, or measure and write it: iterations of each arm for equal CPU time.

    Raises:
        ConfigError: If there is a plan of other settings.
    """
    path = place.out / "plan.json"
    settings = {
        "budget_steps": options.budget_steps,
        "equal": options.equal,
        "warm_steps": options.warm_steps,
        "params": fingerprint_of(place.params("ssr").model_dump(mode="json")),  # data, -S, preset
        "arms": fingerprint_of({arm: overrides_of(arm) for arm in ARMS}),
    }
    kept = kept_plan(path, settings, "steps")
    if kept is not None:
        return kept
    fitting, budget = [arm for arm in ARMS if place.fits(arm)], options.budget_steps
    iterations = dict.fromkeys(fitting if options.equal == "time" else ARMS, budget)
    seconds: dict[str, float] = {}
    if options.equal == "time":
        seconds = step_seconds({arm: partial(place.timed, arm) for arm in fitting})
        for arm, each in seconds.items():
            distilled = place.params(arm).train.distill_steps
            iterations[arm] = max(1, round(budget * seconds[BASELINE] / each) - distilled)
    plan = {"settings": settings, "cpu_s_per_step": seconds, "iterations": iterations}
    write_bytes(path, json.dumps(plan, indent=1).encode() + b"\n")
    return plan


def main() -> None:
    """Compare, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, help="folder with day_train, day_val, dusk_train and dusk_val")
    add("--out", type=Path, required=True, help="folder of this comparison")
    numbers, budget = range(1, MOST_SEEDS + 1), "steps of DAFormer, which each arm gets the like of"
    feed = "whose features and labels the arms get: shuffled, another image's (default: stored)"
    equal = "what all arms have as much of (default: time)"
    add("--seeds", type=int, default=3, choices=numbers, metavar="N", help="seeds 0, 1, ...")
    add("--warm-steps", type=positive, default=400, help="source-only, before all arms of a seed")
    add("--budget-steps", type=positive, default=400, help=budget)
    add("--equal", choices=["time", "steps"], default="time", help=equal)
    add("--arms", nargs="+", choices=ARMS, metavar="ARM", help=f"{', '.join(ARMS)}; all that fit")
    variant = "an arm with other values, such as restyle and train.restyled; may be given again"
    add("--variant", dest="variants", nargs="+", action="append", default=[], help=variant)
    add("--feed", choices=["stored", "shuffled"], default="stored", help=feed)
    add("--jobs", type=positive, default=2, help="trainings at a time, one thread each")
    add(
        "-S", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="in all runs"
    )
    options = parser.parse_args()
    out, data = options.out.resolve(), str(options.data.resolve())
    try:
        write_preset(PRESET, out / "params.yaml", arm="ssr", roots={"source": data, "target": data})
        print(compare(Workplace(out, options.overrides, options.feed), options), end="")
    except (SSRError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
