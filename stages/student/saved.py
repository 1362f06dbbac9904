"""A student on disk: `model.safetensors` and a `config.json` that says what it is.

The folder may be a plain transformers one as well (`layout="segformer"`): then the tensors have
the names that `SegformerForSemanticSegmentation` reads, and our description is the key `ssr` of its
configuration.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from stages.hf_models import is_whole
from stages.prepare.labels import IGNORE, ClassTable
from stages.student.config import STUDENT_FILES, StudentConfig
from stages.student.mit import BACKBONES, segformer_config
from stages.student.weights import from_segformer, to_segformer
from stages.weight_files import reading, require_finite
from store.atomic import TEMPORARY_SUFFIX, write_bytes, write_text
from store.errors import CheckpointError, ConfigError

_CONFIG, _WEIGHTS = STUDENT_FILES
_FROZEN = "frozen"
_OURS = "ssr"  # our key in the configuration of a plain transformers folder
_DIGEST = "sha256"  # our key for the digest of the file, of which its own digits are no part

PLAIN_EPS = 1e-5
"""LayerNorm epsilon that transformers' SegFormer hard-codes, whatever its configuration says."""

Layout = Literal["ssr", "segformer"]


class Card(BaseModel):
    """What `config.json` says of a student: what it is built of, and what was saved with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["ssr-student/1"]
    student: StudentConfig
    num_classes: int = Field(ge=1)
    weights_sha256: str
    # of the frozen network that `rein_vfm` refines, which is not in the folder
    frozen_sha256: str | None = Field(default=None, exclude_if=lambda digest: digest is None)
    meta: dict[str, Any]


def save_student(
    student: nn.Module,
    folder: Path,
    *,
    config: StudentConfig,
    meta: dict[str, Any],
    layout: Layout = "ssr",
) -> None:
    """Write a student so that `load_student` brings it back.

    Each file is replaced atomically, `config.json` last; it carries digests of the weights and of
    itself, so that a crash between the two, and any flipped bit, is noticed when loading.

    Args:
        student: A `Student`, on any device.
        folder: Made where it does not exist; a student in it is replaced.
        config: What the student was built from.
        meta: JSON values to keep beside it: class names, palette, provenance.
        layout: `segformer` makes it a plain transformers folder too, which needs a student that
            `why_not_plain` has nothing against, and `meta["classes"]`.
    """
    tensors = {name: tensor.contiguous().cpu() for name, tensor in student.state_dict().items()}
    num_classes = len(tensors["head.classifier.weight"])
    frozen: str | None = getattr(student, "frozen_sha256", None)
    if layout == "segformer":
        tensors = to_segformer(tensors)
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    card = Card(
        format="ssr-student/1",
        # the weights are here now: what they started from is no part of the architecture
        student=config if frozen else config.model_copy(update={"weights": "random"}),
        num_classes=num_classes,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        frozen_sha256=frozen,
        meta=meta,
    )
    write_bytes(folder / _WEIGHTS, weights)
    tree = {**card.model_dump(mode="json"), _DIGEST: ""}
    if layout == "segformer":
        tree = {**_segformer_config(config, meta["classes"]), _OURS: tree}
    text = json.dumps(tree, indent=2) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_text(folder / _CONFIG, text.replace(f'"{_DIGEST}": ""', f'"{_DIGEST}": "{digest}"'))


def describe_classes(classes: ClassTable) -> dict[str, Any]:
    """Return names and colours in the order of the train ids."""
    return {"classes": list(classes.names), "palette": [list(color) for color in classes.palette]}


def read_student(folder: Path) -> tuple[Card, dict[str, Tensor]]:
    """Read a student that `save_student` wrote: its card, and tensors by the names of `Student`.

    Raises:
        CheckpointError: If the folder holds no student, or a damaged one.
    """
    card, path = read_card(folder), folder / _WEIGHTS
    weights = _read_bytes(path)
    if hashlib.sha256(weights).hexdigest() != card.weights_sha256:
        raise CheckpointError(
            f"{path} is not the file that {_CONFIG} beside it was written for (its sha256 differs);"
            " restore it or train the student again"
        )
    with reading(path, "does not hold tensors", "train the student again"):
        tensors = safetensors.torch.load(weights)
    require_finite(tensors, path, "train the student again")
    return card, from_segformer(tensors)  # which leaves names of `Student` as they are


def frozen_folder(folder: Path, card: Card) -> Path:
    """Find the frozen network of a student: `frozen` in its folder, or where it was at training.

    Raises:
        CheckpointError: If there is none.
    """
    places = (folder / _FROZEN, Path(card.student.weights).expanduser())
    for place in places:
        if is_whole(place):
            return place
    raise CheckpointError(
        f"{folder} is a student on a frozen network that is not in it, {places[1].name} of sha256 "
        f"{(card.frozen_sha256 or '?')[:12]}; put that folder, or a link to it, at {places[0]}"
    )


def require_free(folder: Path, *, files: Collection[str] = ()) -> None:
    """Refuse to write a student among files other than its own and `files`.

    One that was not trained here may be replaced.

    Raises:
        ConfigError: The folder holds a trained student, another model, or anything else.
    """
    if (folder / _CONFIG).is_file():
        try:
            card = read_card(folder)
        except CheckpointError as error:
            raise ConfigError(
                f"{folder} holds a model that is not of this project; give another folder"
            ) from error
        made_anew = "imported" in card.meta or any((folder / name).is_file() for name in files)
        if not made_anew:
            raise ConfigError(
                f"{folder} holds a student that was trained here; give another folder, or remove it"
            )
    elif folder.is_dir():
        own = {_WEIGHTS, _FROZEN, *files}
        for path in sorted(folder.iterdir()):
            if path.name not in own and path.suffix != TEMPORARY_SUFFIX:
                raise ConfigError(
                    f"{folder} holds other files ({path.name}); give a folder of its own"
                )


def require_classes(meta: Mapping[str, Any], wanted: Sequence[str], *, origin: str) -> None:
    """Refuse a student, by its `meta`, of other classes or in another order.

    Raises:
        CheckpointError: The classes differ.
    """
    for train_id, (trained, name) in enumerate(zip_longest(meta["classes"], wanted)):
        if trained != name:
            raise CheckpointError(
                f"{origin}: class {train_id} of the student is {trained or 'none'}, of the "
                f"manifest {name or 'none'}; choose a student that was trained on these classes"
            )


def why_not_plain(config: StudentConfig) -> str | None:
    """Say why a student is not a plain transformers model, and the cure; None if it is one."""
    attends = config.semask is not None and config.semask.attention
    for key, value, fits, cure in (
        ("backbone", config.backbone, config.backbone in BACKBONES, "mit_b0, or another MiT"),
        ("head", config.head, config.head == "mlp", "mlp"),
        ("norm_eps", config.norm_eps, config.norm_eps == PLAIN_EPS, f"{PLAIN_EPS:g}"),
        ("hrda", "on", config.hrda is None, "null"),
        ("semask.attention", "on", not attends, "false"),
    ):
        if not fits:
            return (
                f"its {key} is {value}, which transformers does not have "
                f"(train.student.{key}: {cure})"
            )
    return None


def _segformer_config(config: StudentConfig, classes: Sequence[str]) -> dict[str, Any]:
    """Return the `config.json` of `SegformerForSemanticSegmentation`."""
    tree: dict[str, Any] = segformer_config(
        BACKBONES[config.backbone],
        config.drop_path,
        architectures=["SegformerForSemanticSegmentation"],
        classifier_dropout_prob=config.dropout,
        layer_norm_eps=config.norm_eps,
        decoder_hidden_size=config.head_channels,
        semantic_loss_ignore_index=IGNORE,
        id2label=dict(enumerate(classes)),
        label2id={name: train_id for train_id, name in enumerate(classes)},
        dtype="float32",
    ).to_dict()
    return tree


def read_card(folder: Path) -> Card:
    """Read what a folder says of its student, without its weights.

    Raises:
        CheckpointError: If the folder holds no student.
    """
    path = folder / _CONFIG
    written = _read_bytes(path)
    try:
        tree = json.loads(written)
        ours = tree.get(_OURS, tree)
        digest = ours.pop(_DIGEST, None)
        card = Card.model_validate(ours)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # of JSON, or a field
        reason = str(error).partition("\n")[0]
        if isinstance(error, ValidationError):
            fault = error.errors()[0]
            reason = f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}"
        raise CheckpointError(
            f"{path} describes no student of this project ({reason}); "
            "give the folder of a student that was trained, imported or exported"
        ) from error
    noted = str(digest).encode(errors="replace")
    unsigned = hashlib.sha256(written.replace(noted, b"")).hexdigest()
    if digest not in (None, unsigned):  # version 0.1.0 wrote none
        raise CheckpointError(
            f"{path} is not as it was written: restore it or train the student again; if you "
            f"edited it on purpose, remove its line {_DIGEST}"
        )
    return card


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing; run `ssr train`, or give another student's folder"
        )
    with reading(path, "is not a file", "restore it or train the student again"):
        return path.read_bytes()
