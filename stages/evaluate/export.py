"""Hand a student over: one folder that others load without this project, where that is possible."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from pydantic import ValidationError

from stages.evaluate.model import Model, open_model
from stages.evaluate.onnx import Agreement, compare_twins, export_onnx, require_packages
from stages.evaluate.scores import Evaluation
from stages.prepare.datasets import DATASETS
from stages.prepare.geometry import WORKING_MULTIPLE_PX
from stages.prepare.labels import ClassTable
from stages.prepare.pixels import MEAN, STD
from stages.student.saved import require_free, save_student, why_not_plain
from stages.train.regularizers import summary_of
from store.atomic import write_bytes, write_text
from store.errors import ConfigError

CARD, PROCESSOR, CLASSES = "README.md", "preprocessor_config.json", "classes.json"
ONNX = "model.onnx"

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written.

    Attributes:
        out: The folder.
        why_not_plain: Why transformers alone cannot load it; None where it can.
        why_no_metrics: Why the card has none; None where it has.
        agreement: Of the ONNX twin; None where none was asked for.
    """

    out: Path
    why_not_plain: str | None
    why_no_metrics: str | None
    agreement: Agreement | None


def run(
    *,
    model: Path,
    out: Path,
    onnx: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> ExportResult:
    """Export a student.

    The folder holds `model.safetensors`, `config.json`, `preprocessor_config.json`, `classes.json`
    (names and colours), the model card `README.md`, and `model.onnx` where it is asked for. With
    the MLP head and transformers' norm epsilon it is a plain `SegformerForSemanticSegmentation`;
    any other loads by `Student.from_pretrained`. Every file is replaced atomically, `config.json`
    last.

    Args:
        model: Folder of a student, or of a run that has one; metrics are those beside it.
        out: Made where it does not exist; an earlier export in it is replaced.
        onnx: Also write the ONNX twin, after comparing its logits with the student's.
        progress: Called with steps done, steps in total and what is done next.

    Raises:
        CheckpointError: There is no student, or its twin differs from it.
        ConfigError: `out` holds something else, or a package for ONNX is missing.
        OSError: `out` cannot be written.
    """
    if onnx:
        require_packages()
    student = open_model(model)
    if out.resolve() == student.folder.resolve():
        raise ConfigError(f"--out {out} is the student itself; give another folder")
    require_free(out, files=(CARD, PROCESSOR, CLASSES, ONNX))
    reason = why_not_plain(student.config)
    metrics, why_no_metrics = _metrics(student)
    agreement = None
    out.mkdir(parents=True, exist_ok=True)
    if onnx:
        progress(0, 2, "translating to ONNX, minutes for a large student")
        twin = export_onnx(student.network, student.classes.names)
        progress(1, 2, "comparing its logits")
        agreement = compare_twins(student.network, twin)
        write_bytes(out / ONNX, twin)
        progress(2, 2, "written")
    else:
        (out / ONNX).unlink(missing_ok=True)  # of an earlier export, of other weights perhaps
    card = model_card(student, why_not_plain=reason, metrics=metrics, agreement=agreement)
    write_text(out / CARD, card)
    write_text(out / PROCESSOR, _as_json(_PROCESSOR))
    write_text(out / CLASSES, _as_json(_class_list(student.classes)))
    save_student(
        student.network,
        out,
        config=student.config,
        meta=dict(student.meta),
        layout="segformer" if reason is None else "ssr",
    )
    return ExportResult(out, reason, why_no_metrics, agreement)


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


def _metrics(student: Model) -> tuple[Evaluation | None, str | None]:
    """Read the metrics in a student's folder, or beside it; those of other weights do not count."""
    path = student.folder / "metrics.json"
    if not path.is_file():
        path = student.folder.parent / "metrics.json"
    if not path.is_file():
        return None, f"{path} is missing; run `ssr evaluate` before"
    try:
        metrics = Evaluation.model_validate_json(path.read_bytes())
    except ValidationError:
        return None, f"{path} is damaged or of an earlier version; run `ssr evaluate` again"
    if metrics.student != student.weights_sha256[: len(metrics.student)]:
        return None, f"{path} is of another student; run `ssr evaluate` again"
    return metrics, None


def _class_list(classes: ClassTable) -> list[dict[str, Any]]:
    return [
        {"id": train_id, "name": name, "color": list(color)}
        for train_id, (name, color) in enumerate(zip(classes.names, classes.palette, strict=True))
    ]


def _as_json(content: object) -> str:
    return json.dumps(content, indent=2) + "\n"


def model_card(
    model: Model,
    *,
    why_not_plain: str | None,
    metrics: Evaluation | None,
    agreement: Agreement | None,
) -> str:
    """Write the `README.md` of an exported student from `card.md.jinja`.

    Args:
        model: The student.
        why_not_plain: Why transformers alone cannot load it; None where it can.
        metrics: From `metrics.json` of its run; None where it was not evaluated.
        agreement: Of its ONNX twin; None where there is none.
    """
    environment = Environment(
        loader=PackageLoader("stages.evaluate", ""),
        autoescape=False,  # Markdown; the filter `text` escapes names
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": _text, "percent": _percent, "flat": _flat}
    datasets = model.meta.get("data", {})
    recipe = model.meta.get("recipe")
    regularizer = {} if recipe is None else recipe["regularizer"]
    kinds = dict.fromkeys(data.get("kind") for data in datasets.values())
    return environment.get_template("card.md.jinja").render(
        model=model,
        meta=model.meta,
        recipe=recipe,
        regularizer=summary_of(regularizer.get("kind", "ssr")) if regularizer.get("on") else "",
        datasets=datasets,
        data_terms=[DATASETS[kind].terms for kind in kinds if kind in DATASETS],
        multiple_px=WORKING_MULTIPLE_PX,
        why_not_plain=why_not_plain,
        metrics=metrics,
        agreement=agreement,
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", "null" if value is None else value))
    return pairs


def _text(name: str) -> str:
    """Write a name so that Markdown shows it as it is, without HTML and in one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#!~&])", r"\\\1", " ".join(name.split()))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
