"""Hand a student over: one folder that others load without this project, where that is possible.

Legend: B batch, K classes, H W pixels.
"""

import importlib
import json
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from torch import nn

from stages.evaluate.predict import Model, open_model
from stages.evaluate.scores import Evaluation, percent_text, read_scores
from stages.prepare.datasets import DATASETS
from stages.prepare.geometry import WORKING_MULTIPLE_PX, Size
from stages.prepare.pixels import MEAN, STD
from stages.student.saved import require_free, save_student, why_not_plain
from stages.train.regularizers import summary_of
from store.atomic import write_bytes, write_text
from store.errors import CheckpointError, ConfigError, DataError

CARD, PROCESSOR, CLASSES = "README.md", "preprocessor_config.json", "classes.json"
ONNX = "model.onnx"

TOLERANCE: Final = 1e-4
"""Largest difference of logits that makes an ONNX twin; labels may differ only below it."""

SIZES: Final[tuple[Size, ...]] = ((64, 64), (96, 160), (160, 128), (75, 110))
"""Inputs on which twins are compared; the last is not a multiple of 32."""

# transformers counts from 0 to 1 where our constants count from 0 to 255; it resizes to one fixed
# size, whatever the image's ratio, so that is left to the caller.
_PROCESSOR: Mapping[str, Any] = {
    "image_processor_type": "SegformerImageProcessor",
    "do_resize": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [round(value / 255, 9) for value in MEAN],
    "image_std": [round(value / 255, 9) for value in STD],
    "do_reduce_labels": False,
}


class ExportResult(NamedTuple):
    """What was written."""

    why_not_plain: str | None  # why transformers alone cannot load it
    why_no_metrics: str | None
    onnx_difference: float | None  # largest of any logit


def run(*, model: Path, out: Path, onnx: bool) -> ExportResult:
    """Export a student.

    The folder holds `model.safetensors`, `config.json`, `preprocessor_config.json`, `classes.json`
    (names and colours), the model card `README.md`, and `model.onnx` where it is asked for. With
    the MLP head and transformers' norm epsilon it is a plain `SegformerForSemanticSegmentation`;
    any other loads by `Student.from_pretrained`. Metrics are those beside the student. An earlier
    export is replaced, every file atomically, `config.json` last.

    Raises:
        CheckpointError: There is no student, or its twin differs from it.
        ConfigError: `out` holds something else, or a package for ONNX is missing.
        OSError: `out` cannot be written.
    """
    for package in ("onnx", "onnxruntime", "onnxscript") if onnx else ():
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ConfigError(
                f"--onnx needs the package {package}; pip install -e '.[onnx]'"
            ) from error
    student = open_model(model)
    if out.resolve() == student.folder.resolve():
        raise ConfigError(f"--out {out} is the student itself; give another folder")
    require_free(out, files=(CARD, PROCESSOR, CLASSES, ONNX))
    config = student.card.student.at_inference
    if onnx and config.hrda is not None:
        raise ConfigError(
            "--onnx: the student sees images at two scales (train.student.hrda), the detail in as "
            "many windows as an image needs, which no ONNX graph holds; export it without --onnx"
        )
    if onnx and config.rein is not None:
        raise ConfigError(
            "--onnx: the student's frozen network (train.student.rein) is not translated; export "
            "it without --onnx"
        )
    if config.semask is None:
        student.network.semantic = None
    reason = why_not_plain(config)
    metrics, why_no_metrics = _metrics(student)
    difference = None
    out.mkdir(parents=True, exist_ok=True)
    if onnx:
        twin = export_onnx(student.network, student.classes.names)
        difference = compare_twins(student.network, twin)
        write_bytes(out / ONNX, twin)
    else:
        (out / ONNX).unlink(missing_ok=True)  # of an earlier export, of other weights perhaps
    classes = zip(student.classes.names, student.classes.palette, strict=True)
    listed = [{"id": n, "name": name, "color": color} for n, (name, color) in enumerate(classes)]
    write_text(out / CARD, model_card(student, reason, metrics, difference))
    write_text(out / PROCESSOR, json.dumps(_PROCESSOR, indent=2) + "\n")
    write_text(out / CLASSES, json.dumps(listed, indent=2) + "\n")
    save_student(
        student.network,
        out,
        # folders of this machine are nobody else's business
        config=config.model_copy(update={"weights": Path(config.weights).name}),
        meta=dict(student.card.meta),
        layout="segformer" if reason is None else "ssr",
    )
    return ExportResult(reason, why_no_metrics, difference)


def export_onnx(network: nn.Module, classes: Sequence[str]) -> bytes:
    """Translate a student in eval mode on the CPU; batch, height and width stay free.

    Returns:
        An ONNX file with input `pixel_values` (B, 3, H, W) and output `logits` (B, K, H/4, W/4),
        both float32; its metadata have a JSON list of class names under `classes`.
    """
    import onnx

    assert not network.training, "call eval() first: batch statistics are of training"
    # what the exporter says of itself: absent torchvision, deprecations inside torch
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 3, 96, 160),),  # unequal sides, so that neither is taken for the other
            dynamo=True,  # the other exporter is deprecated
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
            verbose=False,
        )
    assert program is not None, "without a file name the exporter returns its program"
    model = program.model_proto
    onnx.helper.set_model_props(model, {"classes": json.dumps(list(classes))})
    data: bytes = model.SerializeToString()
    return data


def compare_twins(network: nn.Module, model: bytes) -> float:
    """Run a student and its ONNX twin on random images; return the largest difference of logits.

    Raises:
        CheckpointError: A logit differs by more than `TOLERANCE`, or a label differs although its
            logit leads by more than that.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    largest = 0.0
    for index, size in enumerate(SIZES):
        images = rng.standard_normal((1 + index % 2, 3, *size)).astype(np.float32)
        (theirs,) = session.run(["logits"], {"pixel_values": images})
        with torch.inference_mode():
            ours = network(torch.from_numpy(images)).numpy()  # (B, K, H/4, W/4)
        largest = max(largest, float(np.abs(theirs - ours).max()))
        first, second = np.sort(ours, axis=1)[:, :-3:-1].swapaxes(0, 1)
        clear = first - second > TOLERANCE
        if largest > TOLERANCE or (theirs.argmax(1) != ours.argmax(1))[clear].any():
            raise CheckpointError(
                f"the ONNX twin differs from the student by {largest:.3g} at {size[0]}x{size[1]}, "
                f"allowed is {TOLERANCE:g}; nothing was written, try other versions of torch and "
                "onnxruntime"
            )
    return largest


def _metrics(student: Model) -> tuple[Evaluation | None, str | None]:
    """Read the metrics in a student's folder, or beside it; those of other weights do not count."""
    inside = (student.folder / "metrics.json").is_file()
    try:
        metrics = read_scores(student.folder if inside else student.folder.parent)
    except DataError as error:
        return None, str(error)
    if student.card.weights_sha256.startswith(metrics.student):
        return metrics, None
    return None, "metrics.json is of another student; run `ssr evaluate` again"


def model_card(
    student: Model,
    why_not_plain: str | None,
    metrics: Evaluation | None,
    onnx_difference: float | None,
) -> str:
    """Write the `README.md` of an exported student from `card.md.jinja`."""
    environment = Environment(
        loader=PackageLoader("stages.evaluate", ""),
        autoescape=False,  # Markdown; the filter `text` escapes names
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": _text, "percent": percent_text}
    meta = student.card.meta
    datasets, recipe = meta.get("data", {}), meta.get("recipe")
    regularizer = {} if recipe is None else recipe["regularizer"]
    kinds = dict.fromkeys(data.get("kind") for data in datasets.values())
    return environment.get_template("card.md.jinja").render(
        model=student,
        config=student.card.student,
        meta=meta,
        recipe=recipe,
        regularizer=summary_of(regularizer.get("kind", "ssr")) if regularizer.get("on") else "",
        datasets=datasets,
        data_terms=[DATASETS[kind].terms for kind in kinds if kind in DATASETS],
        multiple_px=WORKING_MULTIPLE_PX,
        why_not_plain=why_not_plain,
        metrics=metrics,
        onnx_difference=onnx_difference,
        sizes_px=SIZES,
    )


def _text(name: str) -> str:
    """Write a name so that Markdown shows it as it is, without HTML and in one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#!~&])", r"\\\1", " ".join(name.split()))
