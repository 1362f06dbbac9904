"""What is noted beside a trained student: classes, data, recipe, the weights it began with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.prepare.config import SourceConfig
from stages.prepare.labels import ClassTable
from stages.prepare.manifest import Domain, Manifest
from stages.train.config import TrainConfig

INCIDENTAL = {
    "device",
    "workers",
    "prefetch",
    "activation_checkpointing",
    "checkpoint_every",
    "validate_every",
}
"""Keys of the recipe that change no weight: a checkpoint may be resumed with others."""


def describe_student(
    config: TrainConfig,
    manifest: Manifest,
    sources: Mapping[Domain, SourceConfig],
    *,
    weights: str | None,
    teacher_trained: bool | None,
) -> dict[str, Any]:
    """Describe a student for `save_student`; equal inputs give equal values.

    Args:
        config: What it was trained with.
        manifest: The images.
        sources: The datasets behind them, as far as they are known.
        weights: What the backbone held at the very beginning; None where nobody knows.
        teacher_trained: False for an UNTRAINED TEACHER, None where no features were read.
    """
    recipe = config.model_dump(mode="json", exclude=INCIDENTAL)
    recipe["init"] = config.init and without_folder(config.init)
    recipe["student"]["weights"] = without_folder(config.student.weights)
    return {
        **describe_classes(manifest.classes),
        "teacher_trained": teacher_trained,
        "weights": weights and without_folder(weights),
        "data": {
            domain: _describe_data(manifest, domain, sources.get(domain))
            for domain in manifest.labels
        },
        "recipe": recipe,
    }


def describe_classes(classes: ClassTable) -> dict[str, Any]:
    """Return names and colours in the order of the train ids."""
    return {"classes": list(classes.names), "palette": [list(color) for color in classes.palette]}


def without_folder(weights: str) -> str:
    """Shorten an absolute path to its name: folders of this machine are nobody else's business."""
    path = Path(weights)
    return path.name if path.is_absolute() or weights.startswith("~") else weights


def _describe_data(
    manifest: Manifest, domain: Domain, source: SourceConfig | None
) -> dict[str, Any]:
    described: dict[str, Any] = {"train_images": len(manifest.select(domain=domain, split="train"))}
    if source is not None:
        described |= source.model_dump(mode="json", include={"kind", "fit_px"})
    return described
