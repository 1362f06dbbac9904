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
from typing import TYPE_CHECKING, Annotated, Final, Literal, NoReturn

import typer

from pipeline import (
    EVALUATE_CACHE,
    INDEX,
    MANIFEST,
    PARAMS,
    RESTYLED,
    RUN,
    SCAN_CACHE,
    START,
    Overrides,
    ParamsFile,
    RunFolder,
    result_commands,
    store_commands,
)
from pipeline.presets import ARMS, PRESETS

if TYPE_CHECKING:
    from stages.embed.stage import Step

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
    from store.errors import SSRError, is_out_of_memory

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        app(prog_name="ssr")  # also for `python -m pipeline.cli`
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what typer makes of KeyboardInterrupt
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # another one ends it at once
            again = [word for word in sys.argv[1:] if word != "--fresh"]  # which would start over
            command = shlex.join(["ssr", *again])
            _give_up(f"interrupted: what was written is whole; go on with `{command}`", INTERRUPTED)
        raise
    except SSRError as error:
        _give_up(str(error))
    except OSError as error:  # a full disk, a missing permission, a file in a folder's place
        where = f"{error.filename}: " if error.filename else ""
        _give_up(f"{where}{error.strerror or error}; check the path, permissions and disk space")
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        what = str(error).partition("\n")[0]
        _give_up(
            f"out of memory ({what}): close other programs, or take less at a time: "
            "train.micro_batch_size, train.activation_checkpointing, train.workers, "
            "embed.batch_tiles, evaluate.window_px"
        )


def _give_up(message: str, code: int = 2) -> NoReturn:
    print(f"ssr: {message}", file=sys.stderr)  # noqa: T201 - the shell's own error line
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

    roots = {"source": source, "target": target}
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
        result = stage.run(
            config.prepare,
            out=MANIFEST,
            cache=SCAN_CACHE,
            progress=report,
        )
    print_manifest(result)
    if (rare := config.train.rare_class_sampling) is not None:
        given = rare.model_dump(exclude={"temperature"})
        if said := about_sampling(result.manifest, **given):
            console.print(said)


@app.command("restyle-fit")
def restyle_fit(params: ParamsFile = PARAMS, overrides: Overrides = []) -> None:  # noqa: B006
    """Train ISSA's generator, then its encoder, if restyle.mixer asks; goes on where it stopped.

    They learn from the images of source/train, without labels; `ssr restyle` mixes with them.

    Example: ssr restyle-fit
    """
    from pipeline.checks import current_manifest
    from pipeline.console import console, noted
    from pipeline.params import load_params
    from stages.restyle.mixers.issa import Issa
    from store.errors import ConfigError

    config = load_params(params, overrides)
    mixer = config.restyle and config.restyle.mixer
    if not isinstance(mixer, Issa):
        raise ConfigError(
            "restyle.mixer is not of kind issa, the only one that is trained; set it, or go on "
            "with `ssr restyle`"
        )
    records = current_manifest(config, MANIFEST).select(domain="source", split="train")
    with noted("restyle-fit", "steps", mixer.path) as report:
        from stages.restyle.issa.fit import run

        run(mixer, records=records, root=config.prepare.roots["source"], progress=report)
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
    from pipeline.checks import current_manifest, run_restyle
    from pipeline.console import console, noted
    from pipeline.params import load_params
    from stages.prepare.manifest import Manifest
    from stages.prepare.restyled import Restyled
    from store.errors import ConfigError
    from store.lease import WHOLE

    config = load_params(params, overrides)
    if png is not None and (config.restyle is None or part is not None):
        raise ConfigError("--png needs section restyle, and no --part")
    step = _step_of(part, init=False, finalise=False)
    if config.restyle is not None:
        current_manifest(config, MANIFEST)
    with noted("restyle", "images", RESTYLED.parent) as report:
        result = run_restyle(
            config,
            manifest_path=MANIFEST,
            out=RESTYLED,
            progress=report,
            part=WHOLE if isinstance(step, str) else step,
        )
    if result.folder is None:
        console.print("section restyle is null: nothing is restyled")
        return
    console.print(f"{result.images} images in {result.folder}, {result.made} made now")
    if part is not None:
        console.print("when all parts are done: `ssr restyle`")
    if png is not None:
        from pipeline.pictures import restyled_sheet
        from stages.evaluate.pictures import png_of
        from store.atomic import write_bytes

        made = Restyled.read(RESTYLED, of=MANIFEST)
        sheet = restyled_sheet(made, Manifest.read(MANIFEST), config.prepare.roots)
        write_bytes(png, png_of(sheet))


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
    from pipeline.checks import current_manifest
    from pipeline.params import load_params
    from pipeline.plan import print_plan

    config = load_params(params, overrides)
    print_plan(config, current_manifest(config, MANIFEST), device=device, calibrate=calibrate)


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
    from pipeline.checks import manifest_to_embed, run_embed, run_prefixes
    from pipeline.console import console, noted
    from pipeline.params import load_params
    from pipeline.tables import print_embedded

    step = _step_of(part, init=init_only, finalise=finalise)
    config = load_params(params, overrides)
    manifest = manifest_to_embed(config, MANIFEST)
    with noted("embed", "images", INDEX.parent) as report:
        result = run_embed(config, manifest, index_path=INDEX, progress=report, step=step)
        views = run_prefixes(config, manifest, progress=report, step=step)
    print_embedded(result, step)
    if views is not None:
        console.print(f"prefixes: {views} views now, for train.student.rein.views")


def _step_of(part: str | None, *, init: bool, finalise: bool) -> "Step":
    """Read the flags of `ssr embed`, of which one at most is given."""
    from store.errors import ConfigError

    if (part is not None) + init + finalise > 1:
        raise ConfigError("--init, --part and --finalise are three steps; give one at a time")
    if part is None:
        return "init" if init else "finalise" if finalise else "all"
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", part)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--part {part[:60]}: write it as I/N, from 1/N to N/N")
    return int(match[1]), int(match[2])


@app.command()
def label(params: ParamsFile = PARAMS, overrides: Overrides = []) -> None:  # noqa: B006
    """Label the target by a classifier of stored features, if train.self_training.labels asks.

    It learns from labels of the source; its probabilities are a store that `ssr inspect` shows.

    Example: ssr label -S train.self_training.labels=store
    """
    from pipeline.checks import current_manifest, require_current_stores, run_label
    from pipeline.console import noted
    from pipeline.params import load_params
    from pipeline.tables import print_labels

    config = load_params(params, overrides)
    if config.wanted_label is not None:
        current_manifest(config, MANIFEST)
        require_current_stores(config, INDEX)
    with noted("label", "images", INDEX.parent) as report:
        result = run_label(config, manifest_path=MANIFEST, index_path=INDEX, progress=report)
    print_labels(result)


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
    from pipeline.checks import (
        current_manifest,
        require_current_labels,
        require_current_restyled,
        require_current_stores,
    )
    from pipeline.console import console, noted
    from pipeline.params import load_params
    from pipeline.tables import print_trained, print_validation

    if hash_start:
        from stages.train.workspace import digests_of_start
        from store.atomic import update_bytes
        from store.fingerprint import canonical_json

        digests = digests_of_start(load_params(params, overrides).train)
        update_bytes(START, canonical_json(digests))
        return
    console.quiet = os.environ.get("RANK", "0") != "0"  # of `torchrun`: the first one speaks
    from stages.train import stage
    from stages.train.ranks import joined
    from stages.train.validate import choose_validation
    from stages.train.workspace import Workspace

    with joined() as ranks:
        config = load_params(params, overrides)
        manifest = current_manifest(config, MANIFEST)
        require_current_stores(config, INDEX)
        require_current_labels(config, MANIFEST, INDEX)
        require_current_restyled(config, MANIFEST, RESTYLED)
        workspace = Workspace(MANIFEST, INDEX, config.store.location, config.prepare.roots)
        validation, without = choose_validation(config.train, manifest, workspace)
        print_validation(validation, config.train.validate_every, out, without)
        with noted("train", "steps", out if ranks.first else None) as report:
            result = stage.run(
                config.train,
                workspace=workspace,
                out=out,
                progress=report,
                validation=validation,
                fresh=fresh,
                move_aside=move_aside,
                ranks=ranks,
            )
        print_trained(result, config.train.total_steps)


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
    from pipeline.checks import current_manifest
    from pipeline.console import noted
    from pipeline.params import load_params
    from pipeline.tables import print_metrics
    from store.errors import ConfigError

    if weights is not None:
        overrides = [*overrides, f"evaluate.weights={weights}"]
    config = load_params(params, overrides)
    manifest = current_manifest(config, MANIFEST)
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
