"""Commands of `ssr` about what came out: scores and the report, features, students to hand over."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline import PARAMS, RUN, Overrides, ParamsFile, RunFolder
from store.errors import ConfigError

ModelFolder = Annotated[
    Path,
    typer.Argument(help="A student or run folder: of train, import or export.", metavar="MODEL"),
]
Fit = Annotated[
    str | None,
    typer.Option(metavar="WxH", help="Scale images to fit in this, e.g. 1024x512; or `none`."),
]


def metrics(out: RunFolder = RUN) -> None:
    """Show the last evaluation: mean IoU, IoU per class, where the pictures are.

    Example: ssr metrics --out runs/daformer
    """
    from pipeline.tables import print_metrics

    print_metrics(out)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluated runs, at least two.")],
) -> None:
    """Show evaluated runs side by side, and gains against the first one.

    `ssr report --compare` also shows their predictions.

    Example: ssr compare runs/daformer runs/ssr
    """
    from pipeline.console import console, print_table
    from pipeline.report import read_runs
    from pipeline.tables import UNTRAINED
    from stages.evaluate.scores import percent_text

    if len(runs) < 2:
        raise ConfigError(f"{runs[0]} is one run: name another one to compare it with")
    compared = read_runs(runs)
    for name, first in compared[0].scores.by_dataset.items():
        scores = [run.scores.by_dataset[name] for run in compared]
        rows = [("teacher", *(run.teacher for run in compared))]
        rows += [
            (label, *(percent_text(each.iou[label]) for each in scores)) for label in first.iou
        ]
        rows.append(("mean IoU", *(percent_text(each.miou) for each in scores)))
        gains = (f"{each.miou - first.miou:+.2f}" for each in scores[1:])
        rows.append((f"minus {runs[0]}", "", *gains))
        title = f"{name}: {first.images} images, percent, one run each"
        print_table(title, ("", *map(str, runs)), rows)
    if any(run.scores.teacher_trained is False for run in compared):
        console.print(UNTRAINED)


def report(
    params: ParamsFile = PARAMS,
    overrides: Overrides = [],  # noqa: B006
    out: RunFolder = RUN,
    compare: Annotated[
        list[Path],
        typer.Option(help="An evaluated run to show first beside this one; give several in turn."),
    ] = [],  # noqa: B006
) -> None:
    """Write the run's report.html: parameters, data, features, curves, scores, pictures, costs.

    One file that opens without a network; what is not made yet says what makes it.

    Example: ssr report --out runs/ssr --compare runs/daformer
    """
    from pipeline.console import console
    from pipeline.params import load_params
    from pipeline.report import write_report

    written = write_report(
        load_params(params, overrides),
        params_path=params,
        overrides=overrides,
        run=out,
        compare=compare,
    )
    console.print(f"{written}: open it in a browser")


def probe(
    student: Annotated[
        Path | None,
        typer.Option(help="A student or run folder whose own features are probed too."),
    ] = None,
    images: Annotated[
        int,
        typer.Option(
            min=1, max=1_000_000, help="Most images of each split, evenly spread over it."
        ),
    ] = 60,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the scores into this file.")
    ] = None,
    params: ParamsFile = PARAMS,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Ask whether features mean the same in both domains: a linear classifier of stored tokens.

    It learns from labels of the source and is scored on val images of both domains, whose features
    must be in the stores (embed.splits). What a teacher is worth is what it keeps on the target.

    Example: ssr probe --student runs --json probe.json
    """
    from pipeline.console import console, print_table, progress
    from pipeline.project import Project
    from pipeline.tables import UNTRAINED
    from stages.evaluate.probe import run
    from store.atomic import write_bytes
    from store.fingerprint import canonical_json
    from store.index import Index

    project = Project.load(params, overrides)
    place = project.workspace
    with progress("probe", "images") as report:
        found = run(
            project.manifest,
            roots=place.roots,
            stores=place.stores,
            index=Index.read(place.index),
            images=images,
            student=student,
            progress=report,
        )
    tests = dict.fromkeys(on for _, on in found.scores)
    print_table(
        f"mean IoU of tokens, percent; learnt from labels of {found.learnt_on} images of "
        "source/train",
        ("features", *tests),
        [
            (features, *(f"{found.scores[features, on].miou:.1f}" for on in tests))
            for features in dict.fromkeys(features for features, _ in found.scores)
        ],
    )
    if not found.teacher["trained"]:
        console.print(UNTRAINED)
    if json is not None:
        write_bytes(json, canonical_json(found.as_json()))


def export(
    model: ModelFolder,
    out: Annotated[Path, typer.Option("--out", help="Folder for the exported model.")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also write model.onnx, compared with the student.")
    ] = False,
) -> None:
    """Write a folder to hand over: weights, configuration, classes, model card, perhaps ONNX.

    Example: ssr export runs --out exported --onnx
    """
    from pipeline.console import console
    from stages.evaluate.export import run

    if onnx:
        console.print("translating to ONNX: minutes for a large student")
    result = run(model=model, out=out, onnx=onnx)
    if result.why_no_metrics is not None:
        console.print(f"model card without metrics: {result.why_no_metrics}")
    if result.onnx_difference is not None:
        console.print(f"model.onnx: logits within {result.onnx_difference:.1e} of the student's")
    loader, why = "Student.from_pretrained of this project", result.why_not_plain
    if why is None:
        loader = "SegformerForSemanticSegmentation.from_pretrained"
    console.print(f"{out}: load with {loader}" + (f"; for transformers alone {why}" if why else ""))


def predict(
    model: ModelFolder,
    images: Annotated[list[str], typer.Argument(help="Image files, folders and globs.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for labels, colors and overlays.")],
    fit: Fit = None,
    window: Annotated[
        int | None,
        typer.Option(
            min=32, max=32_768, metavar="PX", help="Slide a window of this side, a multiple of 32."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Images of one size at a time.")] = 4,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes the GPU if there is one.")
    ] = "auto",
) -> None:
    """Predict images: paletted label PNGs, colours, overlays. Scaled as in training by default.

    Example: ssr predict runs photos 'more/*.jpg' --out predicted
    """
    from pipeline.console import console, progress
    from stages.evaluate.predict import run

    if window is not None and window % 32:
        raise ConfigError(f"--window {window}: give a multiple of 32")
    with progress("predict", "images") as report:
        result = run(
            model=model,
            images=images,
            out=out,
            fit_px="model" if fit is None else _parse_fit(fit),
            window_px=window,
            batch=batch,
            device=device,
            progress=report,
        )
    if result.others:
        console.print(f"{result.others} files are not named like images and were left out")
    size = "at their own size" if result.fit_px is None else "fit in {}x{}".format(*result.fit_px)
    console.print(f"{len(result.names)} images, {size}: {out}/labels, {out}/colors, {out}/overlays")


def import_checkpoint(
    checkpoint: Annotated[
        Path, typer.Argument(help="mit_b*.pth, or a DAFormer, MIC or SSR checkpoint.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the student.")],
    weights: Annotated[
        Literal["student", "ema"],
        typer.Option(help="The student of a training, or its EMA model."),
    ] = "student",
    classes: Annotated[
        str | None,
        typer.Option(help="Kind of a dataset whose classes they are, where the file names none."),
    ] = None,
    fit: Fit = None,
) -> None:
    """Turn a checkpoint of another project into a student; every tensor that misfits is listed.

    Example: ssr import daformer.pth --out runs/daformer/student --fit 1024x512
    """
    from pipeline.console import console
    from stages.prepare.datasets import CLASS_TABLES
    from stages.student.foreign import read_foreign, save_foreign

    if classes is not None and classes not in CLASS_TABLES:
        known = ", ".join(CLASS_TABLES)
        raise ConfigError(f"--classes {classes} is unknown; choose one of {known}")
    fit_px = None if fit is None else _parse_fit(fit)
    table = None if classes is None else CLASS_TABLES[classes]
    foreign = read_foreign(checkpoint, network=weights, classes=table)
    config = foreign.config
    trained = f" after {foreign.iteration} iterations" if foreign.iteration is not None else ""
    console.print(
        f"{checkpoint}: {foreign.kind}{trained}; {config.backbone}, {config.head} head of "
        f"{config.head_channels} channels, {len(foreign.classes)} classes; "
        f"{foreign.loaded} tensors loaded",
    )
    if config.hrda is not None:
        console.print(
            f"HRDA: detail windows of {config.hrda.detail_px} px are assumed, no file names them; "
            "evaluate with window_px 1024, as published"
        )
    kinds = ("missing, left random", "unexpected, left out", "of another shape, left random")
    for what, names in zip(kinds, foreign.differences, strict=True):
        for name in names:
            console.print(f"{what}: {name}")
    save_foreign(foreign, out, fit_px=fit_px)
    console.print(f"student in {out}")


def _parse_fit(text: str) -> tuple[int, int] | None:
    """Read `1024x512`, or `none`."""
    from stages.fields import LARGEST_PX

    if text == "none":
        return None
    size = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if size is None or not all(1 <= int(side) <= LARGEST_PX for side in size.groups()):
        raise ConfigError(
            f"--fit {text[:60]}: write it as WIDTHxHEIGHT, e.g. 1024x512, up to {LARGEST_PX} px "
            "each; or none"
        )
    return int(size[1]), int(size[2])
