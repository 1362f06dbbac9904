"""Commands that take a student out of this project, use it, and bring others in.

`pipeline.cli` makes them subcommands of `ssr`.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

ModelFolder = Annotated[
    Path,
    typer.Argument(help="A student or run folder: of train, import or export.", metavar="MODEL"),
]
Fit = Annotated[
    str | None,
    typer.Option(metavar="WxH", help="Scale images to fit in this, e.g. 1024x512; or `none`."),
]


class Network(StrEnum):
    """Which network of a self-training checkpoint is imported."""

    STUDENT = "student"
    EMA = "ema"


class Device(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


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
    from pipeline.console import activity, console, progress

    with activity("loading PyTorch and transformers"):
        from stages.evaluate.export import run
    with progress("export", "steps") as report:
        result = run(model=model, out=out, onnx=onnx, progress=report)
    if result.why_no_metrics is not None:
        console.print(f"model card without metrics: {result.why_no_metrics}")
    if result.agreement is not None:
        console.print(
            f"model.onnx: logits within {result.agreement.largest_difference:.1e} of the student's"
        )
    if result.why_not_plain is None:
        console.print(f"{out}: load with SegformerForSemanticSegmentation.from_pretrained")
    else:
        console.print(f"{out}: load with Student.from_pretrained of this project; for transformers")
        console.print(f"alone {result.why_not_plain}")


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
    device: Annotated[Device, typer.Option(help="auto takes the GPU if there is one.")] = (
        Device.AUTO
    ),
) -> None:
    """Predict images: paletted label PNGs, colours, overlays. Scaled as in training by default.

    Example: ssr predict runs photos 'more/*.jpg' --out predicted
    """
    from pydantic import ValidationError

    from pipeline.console import activity, console, progress
    from stages.evaluate.config import PredictConfig
    from store.errors import ConfigError

    try:
        config = PredictConfig(
            fit_px="model" if fit is None else _parse_fit(fit),
            window_px=window,
            batch=batch,
            device=device.value,
        )
    except ValidationError as error:
        raise ConfigError(f"--window {window}: give a multiple of 32") from error
    with activity("loading PyTorch and transformers"):
        from stages.evaluate.predict import run
    with progress("predict", "images") as report:
        result = run(config, model=model, images=images, out=out, progress=report)
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
        Network, typer.Option(help="The student of a training, or its EMA model.")
    ] = Network.STUDENT,
    classes: Annotated[
        str | None,
        typer.Option(help="cityscapes, camvid or drawn, where the file names no classes."),
    ] = None,
    fit: Fit = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Keep what fits; the rest is random.")
    ] = False,
) -> None:
    """Turn a checkpoint of another project into a student; every tensor that misfits is listed.

    Example: ssr import daformer.pth --out runs/daformer/student --fit 1024x512
    """
    from pipeline.console import activity, console
    from pipeline.tables import print_foreign
    from stages.prepare.datasets import CLASS_TABLES
    from store.errors import ConfigError

    if classes is not None and classes not in CLASS_TABLES:
        known = ", ".join(CLASS_TABLES)
        raise ConfigError(f"--classes {classes} is unknown; choose one of {known}")
    fit_px = None if fit is None else _parse_fit(fit)
    table = None if classes is None else CLASS_TABLES[classes]
    with activity("reading the checkpoint"):
        from stages.student.foreign import read_foreign, save_foreign

        foreign = read_foreign(checkpoint, network=weights.value, classes=table)
    print_foreign(foreign)
    save_foreign(foreign, out, network=weights.value, fit_px=fit_px, partial=partial)
    console.print(f"student in {out}")


def _parse_fit(text: str) -> tuple[int, int] | None:
    """Read `1024x512`, or `none`."""
    from stages.fields import LARGEST_PX
    from store.errors import ConfigError

    if text == "none":
        return None
    size = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if size is None or not all(1 <= int(side) <= LARGEST_PX for side in size.groups()):
        raise ConfigError(
            f"--fit {text[:60]}: write it as WIDTHxHEIGHT, e.g. 1024x512, up to {LARGEST_PX} px "
            "each; or none"
        )
    return int(size[1]), int(size[2])
