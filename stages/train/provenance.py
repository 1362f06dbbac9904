"""What is noted beside a trained student: classes, data, recipe, the weights it began with."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from stages.prepare.datasets import SourceConfig
from stages.prepare.manifest import Domain, Manifest
from stages.student.saved import describe_classes
from stages.train.config import TrainConfig

TRAINING_VERSION: Final = 1
"""Raise it when a change of code changes the weights of the same parameters and data."""

INCIDENTAL: Final = {
    "device",
    "threads",
    "workers",
    "prefetch",
    "activation_checkpointing",
    "log_every",
    "log_to",
    "checkpoint_every",
    "validate_every",
}
"""Keys that change no weight, or its rounding alone: a run goes on with others."""


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


def differences(
    asked: Mapping[str, Any], noted: Mapping[str, Any], at: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield dotted keys that two nested tables share with different values, and both values."""
    for key in asked:
        if key not in noted:
            continue
        value, other = asked[key], noted[key]
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from differences(value, other, f"{at}{key}.")
        elif value != other:
            yield f"{at}{key}", value, other


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
