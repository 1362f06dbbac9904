"""The model card: what somebody needs to know who is given a student."""

import re
from collections.abc import Mapping
from typing import Any, Final

from stages.evaluate.model import Model
from stages.evaluate.scores import Evaluation
from stages.evaluate.twin import Agreement
from stages.prepare.datasets import DATASETS
from stages.prepare.geometry import WORKING_MULTIPLE_PX
from stages.train.regularizers import summary_of

_PLAIN_USE: Final = """\
import torch
from PIL import Image
from transformers import AutoImageProcessor, SegformerForSemanticSegmentation

processor = AutoImageProcessor.from_pretrained(".")
model = SegformerForSemanticSegmentation.from_pretrained(".")

image = Image.open("photo.jpg").convert("RGB")
with torch.inference_mode():
    outputs = model(**processor(image, return_tensors="pt"))
size = image.size[::-1]
labels = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]"""

_OUR_USE: Final = """\
from stages.student.student import Student  # of the SSR offline project

student = Student.from_pretrained(".")
logits = student(images)  # (B, 3, H, W) normalised -> (B, classes, H/4, W/4)"""


def model_card(
    model: Model,
    *,
    why_not_plain: str | None,
    metrics: Evaluation | None,
    agreement: Agreement | None,
) -> str:
    """Write the `README.md` of an exported student.

    Args:
        model: The student.
        why_not_plain: Why transformers alone cannot load it; None where it can.
        metrics: From `metrics.json` of its run; None where it was not evaluated.
        agreement: Of its ONNX twin; None where there is none.
    """
    sections = (
        _front_matter(plain=why_not_plain is None),
        f"# Semantic segmentation: {model.config.backbone}, {model.config.head} head",
        _summary(model),
        _use(why_not_plain),
        _images(model),
        _twin(agreement),
        _classes(model),
        _data(model),
        _recipe(model),
        _metrics(metrics),
        _licences(model),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(model: Model) -> str:
    recipe = model.meta.get("recipe")
    if recipe is None:
        return "A MiT student, brought into the format of SSR offline from elsewhere."
    how = ["on a labelled source"]
    if recipe["self_training"] is not None:
        how.append("by self-training on an unlabelled target (DAFormer)")
    if recipe["masking"] is not None:
        how.append("with masked image consistency (MIC)")
    regularizer = recipe["regularizer"]
    if regularizer["on"]:
        how.append(summary_of(regularizer.get("kind", "ssr")))
    return f"A MiT student, trained by SSR offline {', '.join(how)}. Inference runs it alone."


def _front_matter(*, plain: bool) -> str:
    library = ["library_name: transformers"] if plain else []
    lines = ("---", *library, "pipeline_tag: image-segmentation", "license: other", "tags:")
    return "\n".join((*lines, "- semantic-segmentation", "- domain-adaptation", "---"))


def _use(why_not_plain: str | None) -> str:
    if why_not_plain is None:
        return f"## Use\n\nWith torch, transformers, safetensors and pillow:\n\n{_code(_PLAIN_USE)}"
    reason = f"transformers alone cannot load it: {why_not_plain}."
    return f"## Use\n\n{_code(_OUR_USE)}\n\n{reason}"


def _images(model: Model) -> str:
    fit = "at their own size"
    if model.fit_px is not None:
        fit = f"scaled to fit in {model.fit_px[0]}x{model.fit_px[1]} (OpenCV, bilinear)"
    multiple = f"a multiple of {WORKING_MULTIPLE_PX} px"
    least = f" and at least {model.crop_px} px" if model.crop_px else ""
    return (
        "## Images\n\nRGB, normalised with the mean and deviation in `preprocessor_config.json`, "
        f"which resizes nothing. The student was trained on images {fit}; `ssr predict` scales "
        f"them so, pads with zeros at the right and bottom to {multiple}{least}, and enlarges the "
        "logits twice, to the input and to the file's size. Without these steps labels differ a "
        "little along borders."
    )


def _twin(agreement: Agreement | None) -> str:
    if agreement is None:
        return ""
    sizes = ", ".join(f"{height}x{width}" for height, width in agreement.sizes_px)
    return (
        "## ONNX\n\n`model.onnx`: float32 `pixel_values` (batch, 3, height, width) to `logits` "
        "(batch, classes, height/4, width/4), any size from 32 px. Largest difference to PyTorch "
        f"on random images of {sizes}: {agreement.largest_difference:.1e}."
    )


def _classes(model: Model) -> str:
    rows = (
        f"| {index} | {_text(name)} | #{color[0]:02x}{color[1]:02x}{color[2]:02x} |"
        for index, (name, color) in enumerate(
            zip(model.classes.names, model.classes.palette, strict=True)
        )
    )
    return "## Classes\n\nAlso in `classes.json`.\n\n| id | class | colour |\n|---|---|---|\n" + (
        "\n".join(rows)
    )


def _data(model: Model) -> str:
    if (imported := model.meta.get("imported")) is not None:
        return (
            f"## Data\n\nImported from {_text(imported['file'])} (sha256 {imported['sha256']}), "
            f"{imported['network']} weights; what it was trained on is not known here."
        )
    adapted = model.meta.get("recipe", {}).get("self_training") is not None
    use = {"source": "labelled", "target": "without labels" if adapted else "not trained on"}
    rows = [
        f"- {domain}: {data.get('kind', 'unknown')}, {data['train_images']} images, {use[domain]}"
        for domain, data in model.meta.get("data", {}).items()
    ]
    return "## Data\n\n" + ("\n".join(rows) or "The student does not say.") + _choice(model)


def _choice(model: Model) -> str:
    """Say how a student was chosen among those of its run, and which network of it this is."""
    if model.meta.get("network") == "ema":
        return "\n\nThese are the averaged weights of self-training, not the trained student's."
    if (chosen := model.meta.get("chosen")) is None:
        return ""
    labels = " by TARGET LABELS" if chosen["by_target_labels"] else ""
    return (
        f"\n\nThis is the student of step {chosen['iteration']}, chosen{labels} as the best on "
        f"{chosen['on']} (mean IoU {chosen['miou']:.2f}), not the last one."
    )


def _recipe(model: Model) -> str:
    recipe = model.meta.get("recipe")
    if recipe is None:
        return ""
    lines = [" ".join(f"{key}: {value}".split()) for key, value in _flat(recipe)]
    warning = ""
    if model.meta.get("teacher_trained") is False:
        warning = (
            "UNTRAINED TEACHER: the features came from a teacher of random weights; nothing here "
            "says what SSR does.\n\n"
        )
    return f"## Recipe\n\n{warning}{_code(chr(10).join(lines), 'yaml')}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", "null" if value is None else value))
    return pairs


def _metrics(metrics: Evaluation | None) -> str:
    if metrics is None:
        return "## Metrics\n\nThis student was not evaluated."
    where = f"{metrics.domain}/{metrics.split}, {metrics.images} images"
    seen = "".join(f", {key} {value}" for key, value in metrics.inference.items())
    further = "".join(f", {name} {_percent(miou)}" for name, miou in metrics.subsets.items())
    rows = [f"| {_text(name)} | {_percent(iou)} |" for name, iou in metrics.iou.items()]
    return (
        f"## Metrics\n\nOn {where}{seen}, in percent: mean IoU {_percent(metrics.miou)}{further}, "
        f"pixel accuracy {_percent(metrics.accuracy)}.\n\n| class | IoU |\n|---|---|\n"
        + "\n".join(rows)
    )


def _licences(model: Model) -> str:
    weights = model.meta.get("weights")
    lines = ["- Code: Apache-2.0."]
    if weights == "random":
        lines.append("- Initial weights: random.")
    else:
        lines.append(
            f"- Initial weights: {_text(weights or 'unknown')}. MiT's ImageNet weights are "
            "NVIDIA's, for non-commercial use, and so is what was trained from them; other weights "
            "have terms of their own."
        )
    if model.meta.get("teacher_trained"):
        lines.append("- Segment Anything, whose features were learnt from: Apache-2.0.")
    kinds = dict.fromkeys(data.get("kind") for data in model.meta.get("data", {}).values())
    lines += [f"- Data: {DATASETS[kind].terms}." for kind in kinds if kind in DATASETS]
    return "## Licences\n\n" + "\n".join(lines)


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"


def _text(name: str) -> str:
    """Write a name so that Markdown shows it as it is, without HTML and in one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#!~&])", r"\\\1", " ".join(name.split()))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
