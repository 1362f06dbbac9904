"""Students from checkpoints of other projects: MiT's ImageNet files, DAFormer, HRDA, MIC and SSR.

All names here are those of the file, below the network: `backbone.*`, `decode_head.*`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from stages.fields import RGB
from stages.prepare.datasets import CLASS_TABLES
from stages.prepare.labels import ClassTable
from stages.student.config import HrdaConfig, StudentConfig
from stages.student.hrda import DETAIL_WEIGHT
from stages.student.mit import BACKBONES
from stages.student.saved import describe_classes, require_free, save_student
from stages.student.student import Student, build_student
from stages.student.weights import (
    IMAGENET_HEAD,
    Kind,
    Network,
    import_official,
    network_of,
    official_name,
)
from stages.weight_files import Differences, differences, read_tensors
from store.errors import CheckpointError
from store.fingerprint import sha256_of_file

_PAPER_CHANNELS = 256  # of the head that a bare backbone is given
_PAPER_DETAIL_PX = 512  # which no tensor tells


@dataclass(frozen=True)
class ForeignStudent:
    """A student with the weights of somebody else's checkpoint."""

    path: Path
    kind: Kind
    network: Network  # of a training
    student: Student  # filled with what the checkpoint has; the rest is random
    config: StudentConfig  # as the shapes of the checkpoint say
    classes: ClassTable
    loaded: int  # tensors of the checkpoint that are in the student
    differences: Differences
    iteration: int | None  # of the training; None where the file does not say


def read_foreign(
    path: Path, *, network: Network = "student", classes: ClassTable | None = None
) -> ForeignStudent:
    """Build the student of a checkpoint and fill it, noting every tensor that does not fit.

    Args:
        path: ImageNet's `mit_b*.pth`, an mmseg model, or a training of DAFormer, HRDA, MIC or
            SSR.
        network: Of a training, the student that was trained (whose mIoU is reported) or its EMA.
        classes: Of the logits; None takes names and colours from the file.

    Raises:
        CheckpointError: If the file is missing, damaged or of an unknown backbone or head; or its
            classes are unknown.
    """
    content, meta = read_tensors(path)
    kind, tensors = network_of(content, network, path)
    # HRDA has DAFormer's head one level deeper, beside its attention
    tensors = {n.replace("decode_head.head.", "decode_head."): t for n, t in tensors.items()}
    ours, unknown = import_official(tensors)
    config = _architecture(tensors, path)
    table = _classes(tensors, meta, classes, path)
    student = build_student(config, num_classes=len(table), seed=0)
    wanted = student.state_dict()
    fitting = {n: t for n, t in ours.items() if n in wanted and t.shape == wanted[n].shape}
    student.load_state_dict(fitting, strict=False)
    iteration = meta.get("iter")
    return ForeignStudent(
        path=path,
        kind=kind,
        network=network,
        student=student.eval(),
        config=config,
        classes=table,
        loaded=len({official_name(name) for name in fitting}),
        differences=differences(wanted, ours, unknown=unknown, shown=official_name),
        iteration=iteration if isinstance(iteration, int) else None,
    )


def save_foreign(foreign: ForeignStudent, out: Path, *, fit_px: tuple[int, int] | None) -> None:
    """Write the student's folder, as `save_student`.

    Its images are scaled to fit in `fit_px`, width and height; None keeps their size.

    Raises:
        CheckpointError: Some tensors did not fit.
        ConfigError: `out` holds something else than a student.
    """
    require_free(out)
    # a bare backbone has no decode head, and ImageNet's classifier instead
    expected = ("decode_head.", IMAGENET_HEAD) if foreign.kind == "backbone" else ()
    wrong = (
        tuple(name for name in names if not name.startswith(expected))
        for names in foreign.differences
    )
    if faults := Differences(*wrong).summary():
        raise CheckpointError(
            f"{foreign.path} does not fit a {foreign.config.backbone} student with "
            f"{foreign.config.head} head ({faults}); take the checkpoint of such a student"
        )
    meta: dict[str, Any] = {
        **describe_classes(foreign.classes),
        "teacher_trained": None,
        "weights": foreign.path.name,
        "data": {"target": {"fit_px": fit_px}},
        "imported": {
            "file": foreign.path.name,
            "sha256": sha256_of_file(foreign.path),
            "network": "backbone" if foreign.kind == "backbone" else foreign.network,
            "iteration": foreign.iteration,
            "loaded": foreign.loaded,
        },
    }
    save_student(foreign.student, out, config=foreign.config, meta=meta)


def _architecture(tensors: Mapping[str, Tensor], path: Path) -> StudentConfig:
    """Read the architecture off names and shapes."""
    stems = [tensors.get(f"backbone.patch_embed{stage}.proj.weight") for stage in range(1, 5)]
    widths = tuple(stem.shape[0] for stem in stems if stem is not None)
    depths = tuple(
        len({n.split(".")[2] for n in tensors if n.startswith(f"backbone.block{stage}.")})
        for stage in range(1, 5)
    )
    known = [
        name for name, mit in BACKBONES.items() if (mit.widths, mit.depths) == (widths, depths)
    ]
    if not known:
        raise CheckpointError(
            f"{path} holds no MiT backbone that is known here (widths {list(widths)}, depths "
            f"{list(depths)}); known are {', '.join(BACKBONES)}"
        )
    head = [name for name in tensors if name.startswith("decode_head.")]
    embed = tensors.get("decode_head.embed_layers.0.proj.weight")
    if head and (embed is None or not any(".aspp_modules." in name for name in head)):
        raise CheckpointError(
            f"{path} has a decode head that is not DAFormer's ({head[0]}, ...); import its "
            "backbone alone by train.student.weights"
        )
    attention = tensors.get("decode_head.scale_attention.embed_layers.0.proj.weight")
    return StudentConfig(
        backbone=known[0],
        weights="random",
        norm_eps=1e-6,
        drop_path=0.1,
        head="daformer",
        head_channels=_PAPER_CHANNELS if embed is None else embed.shape[0],
        dropout=0.1,
        hrda=None
        if attention is None
        else HrdaConfig(
            detail_px=_PAPER_DETAIL_PX,
            detail_weight=DETAIL_WEIGHT,
            attention_channels=attention.shape[0],
            margin_px=30,
        ),
    )


def _classes(
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    given: ClassTable | None,
    path: Path,
) -> ClassTable:
    """Take the classes that were given, or those that mmseg noted in the file."""
    logits = tensors.get("decode_head.conv_seg.weight")
    table = given or _noted_classes(meta)
    known = f"give --classes, one of {', '.join(CLASS_TABLES)}"
    if table is None:
        raise CheckpointError(f"{path} does not say what its classes are; {known}")
    if logits is not None and logits.shape[0] != len(table):
        raise CheckpointError(
            f"{path} has logits of {logits.shape[0]} classes, and {len(table)} classes are "
            f"{'given' if given else 'named in it'}; {known}"
        )
    return table


def _noted_classes(meta: Mapping[str, Any]) -> ClassTable | None:
    """Return mmseg's names and colours; None where they are not there or make no sense."""
    try:
        names = TypeAdapter(tuple[str, ...]).validate_python(meta.get("CLASSES"))
        palette = TypeAdapter(tuple[RGB, ...] | None).validate_python(meta.get("PALETTE"))
    except ValidationError:
        return None
    if palette is not None and len(palette) == len(names):
        return ClassTable(names, palette) if names else None
    return next((table for table in CLASS_TABLES.values() if table.names == names), None)
