"""The `ssr` command: one subcommand per stage. Everything heavy is imported when it is used."""

import logging
import os
import re
import shlex
import signal
import sys
from inspect import getdoc
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from pipeline import (
    EVALUATE_CACHE,
    INDEX,
    MANIFEST,
    PARAMS,
    RUN,
    SCAN_CACHE,
    START,
    Overrides,
    ParamsFile,
    RunFolder,
    explain,
    result_commands,
    store_commands,
)
from pipeline.presets import ARMS, PRESETS

if TYPE_CHECKING:
    from stages.embed.stage import Step
    from store.lease import Part

INTERRUPTED: Final = 130
"""Exit code of a process that an interrupt ended: 128 and the signal's number."""

app = typer.Typer(
    name="ssr",
    help="Segmentation that adapts to a new domain: embed images with a frozen teacher once, train "
    "from the store. Stages: prepare, embed, train, evaluate, report; `dvc repro` runs them all.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line.

    A mistake that the user can correct is one line and exit code 2, an interrupt one line and 130.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    code = 2
    try:
        app(prog_name="ssr")  # also for `python -m pipeline.cli`
    except SystemExit as end:
        if end.code != INTERRUPTED:  # what typer makes of KeyboardInterrupt
            raise
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another one ends it at once
        again = [word for word in sys.argv[1:] if word != "--fresh"]  # which would start over
        command, code = shlex.join(["ssr", *again]), INTERRUPTED
        line = f"interrupted: what was written is whole; go on with `{command}`"
    except Exception as error:
        if (explained := explain(error)) is None:
            raise
        line = explained
    print(f"ssr: {line}", file=sys.stderr)  # noqa: T201 - the shell's own error line
    sys.exit(code)


def _choices() -> str:
    """List the values of `ssr init`, unbroken."""
    texts = (f"Presets: {', '.join(sorted(PRESETS))}", f"Arms: {', '.join(ARMS)}")
    return "\b\n" + "\n".join(
        fill(text, 78, subsequent_indent="  ", break_on_hyphens=False) for text in texts
    )


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"ssr-offline {version('ssr-offline')}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


@app.command(epilog=_choices())
def init(
    preset: Annotated[str, typer.Option(help="A task, see below.", autocompletion=lambda: PRESETS)],
    source: Annotated[str | None, typer.Option(help="Folder of the labelled dataset.")] = None,
    target: Annotated[str | None, typer.Option(help="Folder of the unlabelled dataset.")] = None,
    arm: Annotated[
        str, typer.Option(help="How it trains, see below.", autocompletion=lambda: ARMS)
    ] = "ssr",
    params: ParamsFile = PARAMS,
    force: Annotated[bool, typer.Option("--force", help="Replace an edited params file.")] = False,
) -> None:
    """Write params.yaml from a preset; an edited file is kept unless --force is given.

    The arm says how it trains: by default SSR, as the preset is packaged. With `folders` and
    `folders-small` it looks at your folders and proposes splits, sizes and classes.

    Example: ssr init --preset gta5-to-cityscapes --source /data/gta5 --target /data/cityscapes
    """
    from pipeline.console import console
    from pipeline.init import write_preset

    folders = {"source": source, "target": target}
    roots = {domain: folder for domain, folder in folders.items() if folder is not None}
    for line in write_preset(preset, params, arm=arm, roots=roots, overwrite=force):
        console.print(line)
    console.print(f"{params}: preset {preset}, arm {arm}. Next: `dvc repro`, or `ssr prepare`.")


@app.command()
def classes(
    folder: Annotated[Path, typer.Argument(help="A folder of labels, or a dataset with some.")],
) -> None:
    """Print a class table to paste into params.yaml, with the shares of the classes.

    Example: ssr classes /data/gta5
    """
    from pipeline.console import console
    from pipeline.init import classes_yaml
    from stages.prepare.proposal import classes_under

    proposed = classes_under(folder)
    for line in proposed.said:
        console.print(f"# {line}")
    console.print(classes_yaml(proposed), soft_wrap=True, end="")


@app.command()
def prepare(params: ParamsFile = PARAMS, overrides: Overrides = []) -> None:  # noqa: B006
    """List and check the images of both domains; write the manifest.

    Example: ssr prepare -S prepare.source.root=/data/gta5
    """
    from pipeline.console import console, noted
    from pipeline.params import load_params
    from pipeline.tables import print_manifest
    from stages.prepare import stage
    from stages.prepare.proposal import about_sampling

    config = load_params(params, overrides)
    with noted("prepare", "images", MANIFEST.parent) as report:
        result = stage.run(config.prepare, out=MANIFEST, cache=SCAN_CACHE, progress=report)
    print_manifest(result)
    rare = config.train.rare_class_sampling
    given = {} if rare is None else rare.model_dump(exclude={"temperature"})
    if given and (said := about_sampling(result.manifest, **given)):
        console.print(said)


@app.command("restyle-fit")
def restyle_fit(params: ParamsFile = PARAMS, overrides: Overrides = []) -> None:  # noqa: B006
    """Train ISSA's generator, then its encoder, if restyle.mixer asks; goes on where it stopped.

    They learn from the images of source/train, without labels; `ssr restyle` mixes with them.

    Example: ssr restyle-fit
    """
    from pipeline.console import console, noted
    from pipeline.project import Project
    from stages.restyle.mixers.issa import Issa
    from store.errors import ConfigError

    project = Project.load(params, overrides)
    mixer = project.params.restyle and project.params.restyle.mixer
    if not isinstance(mixer, Issa):
        raise ConfigError(
            "restyle.mixer is not of kind issa, the only one that is trained; set it, or go on "
            "with `ssr restyle`"
        )
    records = project.manifest.select(domain="source", split="train")
    root = project.workspace.roots["source"]
    with noted("restyle-fit", "steps", mixer.path) as report:
        from stages.restyle.issa.fit import run

        run(mixer, records=records, root=root, progress=report)
    console.print(f"{mixer.path}: generator and encoder are trained. Next: `ssr restyle`.")


@app.command()
def restyle(
    params: ParamsFile = PARAMS,
    overrides: Overrides = [],  # noqa: B006
    part: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only make this part, for job arrays.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Draw some beside content and style into this file.")
    ] = None,
) -> None:
    """Show images of the source in other styles, if section restyle asks; labels are kept.

    It goes on where it stopped. In job arrays: --part 1/N to N/N, then once without.

    Example: ssr restyle --png restyled.png
    """
    from pipeline.console import console, noted
    from pipeline.project import Project
    from store.errors import ConfigError

    project = Project.load(params, overrides)
    if png is not None and (project.params.restyle is None or part is not None):
        raise ConfigError("--png needs section restyle, and no --part")
    with noted("restyle", "images", MANIFEST.parent) as report:
        result = project.restyle(report, part=_part_of(part))
    if result.folder is None:
        console.print("section restyle is null: nothing is restyled")
        return
    console.print(f"{result.images} images in {result.folder}, {result.made} made now")
    if part is not None:
        console.print("when all parts are done: `ssr restyle`")
    if png is not None:
        from pipeline.pictures import save_restyled

        save_restyled(png, project)


@app.command()
def plan(
    params: ParamsFile = PARAMS,
    overrides: Overrides = [],  # noqa: B006
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time a few tiles, and a write, here.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="Device to look up, e.g. a100; else this machine's.")
    ] = None,
) -> None:
    """Say beforehand what restyling and embedding will cost: tiles, time, disk; needs no weights.

    Example: ssr plan --device a100 -S embed.teacher.architecture=vit_h -S embed.precision=bfloat16
    """
    from pipeline.plan import print_plan
    from pipeline.project import Project

    print_plan(Project.load(params, overrides), device=device, calibrate=calibrate)


@app.command()
def embed(
    params: ParamsFile = PARAMS,
    overrides: Overrides = [],  # noqa: B006
    init_only: Annotated[
        bool, typer.Option("--init", help="Only fix metadata and scales, before parts write.")
    ] = False,
    part: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only embed this part, for job arrays.")
    ] = None,
    finalise: Annotated[
        bool, typer.Option("--finalise", help="Only write the index, after all parts.")
    ] = False,
) -> None:
    """Run the teacher once over the images and store its features; goes on where it stopped.

    In job arrays: --init once, then --part 1/N to N/N at any time and place, then --finalise.

    Example: ssr embed -S embed.teacher.weights=sam_vit_b_01ec64.pth
    """
    from pipeline.console import console, noted
    from pipeline.project import Project
    from store.errors import ConfigError

    if (part is not None) + init_only + finalise > 1:
        raise ConfigError("--init, --part and --finalise are three steps; give one at a time")
    whole: Step = "init" if init_only else "finalise" if finalise else "all"
    step = whole if part is None else _part_of(part)
    project = Project.load(params, overrides)
    with noted("embed", "images", INDEX.parent) as report:
        result = project.embed(report, step=step)
        views = project.store_prefixes(report, step=step)
    for domain, done in result.items():
        if step == "init":
            console.print(f"{domain}: {done.path} is ready for parts; next: `ssr embed --part 1/N`")
            continue
        speed = f" at {done.images_per_second:.1f} images/s" if done.embedded else ""
        share = "" if part is None else f", part {part}"
        now = "" if step == "finalise" else f"{share}, {done.embedded} embedded now{speed}"
        console.print(f"{domain}: {done.images} images in {done.path}{now}")
    if part is not None:
        console.print("when all parts are done: `ssr embed --finalise`")
    if views is not None:
        console.print(f"prefixes: {views} views now, for train.student.rein.views")


def _part_of(text: str | None) -> "Part":
    """Read I/N; the whole where it is not given."""
    from store.errors import ConfigError
    from store.lease import WHOLE

    if text is None:
        return WHOLE
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--part {text[:60]}: write it as I/N, from 1/N to N/N")
    return int(match[1]), int(match[2])


@app.command()
def label(params: ParamsFile = PARAMS, overrides: Overrides = []) -> None:  # noqa: B006
    """Label the target by a classifier of stored features, if train.self_training.labels asks.

    It learns from labels of the source; its probabilities are a store that `ssr inspect` shows.

    Example: ssr label -S train.self_training.labels=store
    """
    from pipeline.console import console, noted
    from pipeline.project import Project
    from pipeline.tables import print_classifier

    project = Project.load(params, overrides)
    with noted("label", "images", INDEX.parent) as report:
        result = project.label(report)
    if (labels := result.entry) is None:
        console.print("train.self_training.labels asks for no labels from the store")
        return
    console.print(f"{labels.images} images in {labels.path}, {result.labelled} labelled now")
    print_classifier(labels.provenance)


@app.command()
def train(
    params: ParamsFile = PARAMS,
    overrides: Overrides = [],  # noqa: B006
    out: RunFolder = RUN,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Start over; a run that is there moves to OUT/replaced."),
    ] = False,
    move_aside: Annotated[
        bool,
        typer.Option("--move-aside", help="Move another run in OUT there, instead of refusing."),
    ] = False,
    hash_start: Annotated[
        bool,
        typer.Option("--hash-start", help=f"Hash the weights to start from to {START}, for DVC."),
    ] = False,
) -> None:
    """Train the student from the stores; an interrupted run resumes, no teacher is loaded.

    A run has a folder of its own: with other parameters or data, give another --out.
    With N GPUs: torchrun --nproc-per-node N -m pipeline.cli train, with the same options.

    Example: ssr train -S 'train.regularizer.on=[]' --out runs/daformer
    """
    from pipeline.console import console, noted
    from pipeline.project import Project
    from pipeline.tables import UNTRAINED

    if hash_start:
        from stages.train.workspace import digests_of_start
        from store.atomic import update_bytes
        from store.fingerprint import canonical_json

        digests = digests_of_start(Project.load(params, overrides).params.train)
        update_bytes(START, canonical_json(digests))
        return
    console.quiet = os.environ.get("RANK", "0") != "0"  # of `torchrun`: the first one speaks
    from stages.train import stage
    from stages.train.ranks import joined
    from stages.train.validate import choose_validation

    with joined() as ranks:
        project = Project.load(params, overrides)
        config, workspace = project.params.train, project.workspace
        project.require_current_inputs()
        validation, without = choose_validation(config, project.manifest, workspace)
        if validation is None and config.validate_every:
            console.print("no validation: neither domain has labelled val images")
        elif validation is not None and config.validate_every:
            labels = "without a label of the target"
            if validation.sees_target_labels:
                labels = "by TARGET LABELS, which unsupervised adaptation does not have"
            where = f"every {config.validate_every} steps on {validation.on}"
            console.print(f"validation {where}: the best is chosen {labels}; kept in {out}/best")
            if without is not None:
                console.print(without)
        with noted("train", "steps", out if ranks.first else None) as report:
            result = stage.run(
                config,
                workspace=workspace,
                out=out,
                progress=report,
                validation=validation,
                fresh=fresh,
                move_aside=move_aside,
                ranks=ranks,
            )
    if result.resumed_from is not None:
        console.print(f"resumed after {result.resumed_from} of {config.total_steps} steps")
    if (best := result.curves.best) is not None:
        console.print(f"best validation: mean IoU {best['miou']:.2f} at step {best['iteration']}")
    if result.teacher_trained is False:
        console.print(UNTRAINED)
    console.print(f"student in {result.student}, {result.seconds:.0f} s")


@app.command()
def evaluate(
    params: ParamsFile = PARAMS,
    overrides: Overrides = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run and of the results.  [default: runs]")
    ] = None,
    weights: Annotated[
        Literal["student", "ema"] | None,
        typer.Option(help="Whose weights of the run; default: evaluate.weights."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Another student, e.g. runs/best; results go there, unless --out."),
    ] = None,
) -> None:
    """Measure the trained student on labelled images, the target's at first; draw pictures.

    Example: ssr evaluate -S evaluate.flip=true -S 'evaluate.scales=[0.75,1.0,1.25]'
    """
    from pipeline.console import noted
    from pipeline.project import Project
    from pipeline.tables import print_metrics
    from store.errors import ConfigError

    if weights is not None:
        overrides = [*overrides, f"evaluate.weights={weights}"]
    project = Project.load(params, overrides)
    config, manifest = project.params, project.manifest
    run = model or out or RUN
    out = out or run
    with noted("evaluate", "images", out) as report:
        from stages.evaluate import stage
        from stages.evaluate.predict import student_folder

        student = student_folder(run, config.evaluate.weights)
        if weights is not None and student == run:
            raise ConfigError(f"{run} holds one student; for --weights {weights} give its run")
        stage.run(
            config.evaluate,
            manifest=manifest,
            roots=config.prepare.roots,
            student=student,
            out=out,
            progress=report,
            at_least_px=config.prepare.pad_to_px,
            cache=EVALUATE_CACHE,
        )
    print_metrics(out)


app.command()(result_commands.metrics)
app.command()(result_commands.compare)
app.command()(result_commands.report)


@app.command()
def doctor(params: ParamsFile = PARAMS, overrides: Overrides = []) -> None:  # noqa: B006
    """Find what is likely to go wrong, with its cure; exit code 2 where there is a problem.

    Example: ssr doctor -S train.device=cuda
    """
    from pipeline.doctor import examine, print_findings

    print_findings(examine(params, overrides))


app.command()(result_commands.export)
app.command()(result_commands.predict)
app.command("import")(result_commands.import_checkpoint)
app.command()(store_commands.inspect)
app.command()(store_commands.verify)
app.command()(store_commands.convert)
app.command()(result_commands.probe)

for command in app.registered_commands:  # typer cuts sentences in the list, and wraps examples
    text = getdoc(command.callback) or ""
    command.short_help = text.partition("\n\n")[0]
    command.help = text.replace("\n\nExample:", "\n\n\b\nExample:")

if __name__ == "__main__":  # for torchrun -m
    main()
