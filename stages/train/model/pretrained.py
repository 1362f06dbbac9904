"""Load weights made elsewhere: official files (`mit_b*.pth`, whole trainings), Hugging Face."""

import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerModel
from transformers.utils import logging as transformers_logging

from stages.train.model.hub import demand_on_hub
from stages.train.model.official import import_official, ours_to_official
from stages.train.model.reading import check_bytes, reading
from stages.train.model.regularizer import Regularizer
from store.errors import CheckpointError

_FILE_SUFFIXES = {".pth", ".pt", ".bin", ".ckpt", ".safetensors"}
_SHOWN = 1  # names in a message; a B5 has a thousand
_LONGEST = 100  # characters of somebody else's message


def load_backbone(backbone: SegformerModel, weights: str) -> None:
    """Fill a backbone, in place; its epsilons, drop path and attention stay as built.

    Args:
        backbone: As built by `build_backbone`.
        weights: An official file (ImageNet's `mit_b*.pth`, or any official training, whose student
            backbone is taken), or a Hugging Face folder or id such as `nvidia/mit-b5`.

    Raises:
        CheckpointError: If the weights are missing, damaged or of another architecture.
    """
    path = Path(weights).expanduser()
    absent = weights.startswith(("/", "./", "../", "~")) and not path.exists()
    if absent or (path.suffix in _FILE_SUFFIXES and not path.is_file()):
        raise CheckpointError(
            f"{path} does not exist; download it to there (MiT on ImageNet: see "
            "github.com/NVlabs/SegFormer), correct the path, or take nvidia/mit-b5"
        )
    if path.is_file():
        _fill(nn.ModuleDict({"backbone": backbone}), path, ("backbone.",))
    else:
        _load_huggingface(backbone, weights)


def is_of_segmenter(weights: str) -> bool:
    """Tell whether weights that `load_backbone` took come with a decode head, unlike ImageNet's."""
    path = Path(weights).expanduser()
    if path.is_file():
        return any("decode_head." in name for name in read_tensors(path)[0])
    config = SegformerConfig.from_pretrained(weights, local_files_only=True)
    return "SegformerForSemanticSegmentation" in (config.architectures or ())


def load_official_student(student: nn.Module, path: Path) -> None:
    """Fill a student with DAFormer head from an official checkpoint, in place.

    Args:
        student: Of the checkpoint's architecture and number of classes.
        path: File of an mmseg model or of a whole DAFormer, MIC or SSR training; of the latter the
            trained student is taken, neither its EMA nor its ImageNet model.

    Raises:
        CheckpointError: If the file is missing, damaged or of another architecture.
    """
    _fill(student, path, ("backbone.", "decode_head."))


def load_official_regularizer(regularizer: Regularizer, path: Path) -> None:
    """Fill the stages that a regulariser has from an official SSR training, in place.

    Raises:
        CheckpointError: If the file is missing, damaged or of another architecture.
    """
    stages = list(regularizer.embed)
    _fill(
        regularizer,
        path,
        [f"{part}.{stage}." for part in ("embedding_layer", "fusion_layer") for stage in stages],
    )


def _fill(module: nn.Module, path: Path, prefixes: Collection[str]) -> None:
    official = _read_official(path)
    chosen = {n: t for n, t in official.items() if n.startswith(tuple(prefixes))}
    tensors, unknown = import_official(chosen)
    _demand_fit(module.state_dict(), tensors, unknown, origin=str(path))
    module.load_state_dict(tensors)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read a PyTorch weight file; one that could run code is refused.

    Args:
        path: A table of tensors, or an mmcv checkpoint, which has one as its `state_dict`.

    Returns:
        The tensors on the CPU under their names in the file, and mmcv's `meta`, empty without.

    Raises:
        CheckpointError: If the file is missing, damaged or holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; download it or correct the path")
    with reading(path, "is damaged or no PyTorch weight file", "get it again"):
        if zipfile.is_zipfile(path):  # older files carry no checksums
            check_bytes(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    meta: Any = {}
    if isinstance(content, dict):
        meta = content.get("meta", {})
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(_is_weight(*item) for item in content.items()):
        raise CheckpointError(f"{path} holds no table of tensors; give a file of network weights")
    broken = [name for name, tensor in content.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"{path}: {_few(broken)} holds values that are not finite; get the file again"
        )
    return content, meta if isinstance(meta, dict) else {}


def _is_weight(name: object, tensor: object) -> bool:
    return (
        isinstance(name, str)
        and torch.is_tensor(tensor)
        and tensor.layout == torch.strided
        and not tensor.is_complex()
        and (tensor.ndim > 0 or not name.endswith((".weight", ".bias")))
    )


def _read_official(path: Path) -> dict[str, Tensor]:
    """Read a file's student and regulariser under their official names, `backbone.*` and so on."""
    content, _ = read_tensors(path)
    if any(name.startswith("model.backbone.") for name in content):  # a whole training
        return {name.removeprefix("model."): tensor for name, tensor in content.items()}
    if any(name.startswith("backbone.") for name in content):  # an mmseg model
        return content
    # ImageNet weights: a bare backbone, perhaps with the classifier that the official loader drops
    return {f"backbone.{n}": t for n, t in content.items() if not n.startswith("head.")}


def _load_huggingface(backbone: SegformerModel, weights: str) -> None:
    newest = demand_on_hub(weights)
    try:
        with _quiet_transformers():
            loaded, info = SegformerModel.from_pretrained(
                weights, output_loading_info=True, local_files_only=not newest
            )
    except Exception as error:  # hub, network, JSON and safetensors errors share no base
        raise CheckpointError(
            f"cannot load {weights} from Hugging Face; give a file, a folder with config.json and "
            f"weights, or an id that this machine can reach ({_first_line(error)})"
        ) from error
    tensors = loaded.state_dict()
    for name in info["missing_keys"]:  # transformers has filled them with random numbers
        del tensors[name]
    _demand_fit(backbone.state_dict(), tensors, [], origin=weights)
    heads, wanted = loaded.config.num_attention_heads, backbone.config.num_attention_heads
    if list(heads) != list(wanted):
        raise _other_architecture(weights, [f"{list(heads)} attention heads, not {list(wanted)}"])
    backbone.load_state_dict(tensors)


def _demand_fit(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], unknown: list[str], *, origin: str
) -> None:
    """Compare names and shapes; every difference counts, the first few are named officially."""
    faults = []
    if missing := _official([name for name in wanted if name not in given]):
        faults.append(f"{len(missing)} missing: {_few(missing)}")
    if extra := [*unknown, *_official([name for name in given if name not in wanted])]:
        faults.append(f"{len(extra)} unexpected: {_few(extra)}")
    shapes = {
        name: f"{tuple(given[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    }
    if shapes:
        shown = [f"{ours_to_official(name) or name} {text}" for name, text in shapes.items()]
        faults.append(f"{len(shapes)} of other shape: {_few(shown)}")
    if faults:
        raise _other_architecture(origin, faults)


def _other_architecture(origin: str, faults: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{origin} is a checkpoint of another architecture ({'; '.join(faults)}); "
        "choose the student that it was made for"
    )


def _official(names: list[str]) -> list[str]:
    """Official names, each once; names that have none stay as they are."""
    return list(dict.fromkeys(ours_to_official(name) or name for name in names))


def _few(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _first_line(error: Exception) -> str:
    return shorten(str(error).strip().partition("\n")[0], _LONGEST)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bar and loading report; what they tell is checked here."""
    verbosity, bar = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
