"""Weights made elsewhere: official files (`mit_b*.pth`, whole trainings), Hugging Face."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Final

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.constants import CONFIG_NAME
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerModel
from transformers.utils import logging as transformers_logging

from stages.student.config import is_hub_id
from stages.student.names import from_segformer, import_official, ours_to_official
from stages.weight_files import differences, prefixes_of, read_tensors
from store.errors import CheckpointError

_FILE_SUFFIXES = {".pth", ".pt", ".bin", ".ckpt", ".safetensors"}
_LONGEST = 100  # characters of somebody else's message

PATIENCE_S: Final = 10.0
"""For an answer of the hub."""

SEGFORMER: Final = "encoder.patch_embeddings.0.proj.weight"
"""A tensor of transformers' files, and of no other."""

_STEM: Final = "patch_embed1.proj.weight"


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
        fill_official(nn.ModuleDict({"backbone": backbone}), path, ("backbone.",))
    else:
        _load_huggingface(backbone, weights)


def is_of_segmenter(weights: str) -> bool:
    """Tell whether weights that `load_backbone` took come with a decode head, unlike ImageNet's."""
    path = Path(weights).expanduser()
    if path.is_file():
        return any("decode_head." in name for name in read_tensors(path)[0])
    config = SegformerConfig.from_pretrained(weights, local_files_only=True)
    return "SegformerForSemanticSegmentation" in (config.architectures or ())


def fill_official(module: nn.Module, path: Path, prefixes: Collection[str]) -> None:
    """Fill a module, in place, with the tensors of an official file that begin with the prefixes.

    Of a whole DAFormer, MIC or SSR training these are the student's, not its EMA's or ImageNet's.

    Raises:
        CheckpointError: If the file is missing, damaged or of another architecture.
    """
    content, _ = read_tensors(path)
    if theirs := prefixes_of(content, SEGFORMER):
        named = {f"segformer.{n.removeprefix(theirs[0])}": t for n, t in content.items()}
        ours, unknown = from_segformer(named), list[str]()
        tensors = {n: t for n, t in ours.items() if n.startswith("backbone.")}
    else:
        official = _officially(content, path)
        chosen = {n: t for n, t in official.items() if n.startswith(tuple(prefixes))}
        tensors, unknown = import_official(chosen)
    _require_fit(module.state_dict(), tensors, unknown, origin=str(path))
    module.load_state_dict(tensors)


def prefix_of_backbone(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Find the student of a file: what stands before the names of its backbone.

    Args:
        tensors: Under official names, in whatever wrappers.
        path: Their file, for the message.

    Returns:
        `model.backbone.` of a training, `backbone.` of an mmseg model, nothing of ImageNet's
        weights; all perhaps behind others, as `module.`.

    Raises:
        CheckpointError: If there are several, and none is that of a training.
    """
    found = prefixes_of(tensors, _STEM)
    trained = [p for p in found if f".{p}".endswith(".model.backbone.")]
    single = trained or [p for p in found if not re.search(r"\b(ema|imnet)_model\.", p)]
    if len(single) > 1:
        raise CheckpointError(
            f"{path} holds several backbones ({', '.join(single)}); save the tensors of one alone"
        )
    if single:
        return single[0]
    known = ("model.backbone.", "backbone.")  # the stem may be what is missing
    return next((p for p in known if any(name.startswith(p) for name in tensors)), "")


def _officially(content: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Free the names of student and regulariser of wrappers: `backbone.*` and so on."""
    prefix = prefix_of_backbone(content, path)
    outer = prefix.removesuffix("backbone.")
    added = "" if prefix.endswith("backbone.") else "backbone."  # ImageNet weights have none
    inner = {added + name.removeprefix(outer): tensor for name, tensor in content.items()}
    # the official loader drops ImageNet's classifier, too
    return {name: t for name, t in inner.items() if not name.startswith("backbone.head.")}


def _load_huggingface(backbone: SegformerModel, weights: str) -> None:
    newest = _is_reachable_on_hub(weights)
    try:
        transformers_logging.set_verbosity_error()  # its bar and its report: both are checked here
        transformers_logging.disable_progress_bar()
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
    _require_fit(backbone.state_dict(), tensors, [], origin=weights)
    heads, wanted = loaded.config.num_attention_heads, backbone.config.num_attention_heads
    if list(heads) != list(wanted):
        raise _other_architecture(weights, f"{list(heads)} attention heads, not {list(wanted)}")
    backbone.load_state_dict(tensors)


def _is_reachable_on_hub(weights: str) -> bool:
    """Tell whether to load from the hub; where it is out of reach, the cache may have the model.

    The hub is asked once: transformers asks five times with growing pauses, half a minute without
    a network or for a typo.

    Raises:
        CheckpointError: There is no such name, or no network and nothing in the cache.
    """
    if Path(weights).expanduser().is_dir():
        return True
    if not is_hub_id(weights):
        raise CheckpointError(
            f"{weights}: there is no such file or folder, and it is not a Hugging Face id, "
            "which is owner/name as nvidia/mit-b5; correct it, or say random"
        )
    try:
        get_hf_file_metadata(hf_hub_url(weights, CONFIG_NAME), timeout=PATIENCE_S)
    except GatedRepoError as error:
        raise CheckpointError(
            f"cannot load {weights} from Hugging Face: its owner grants access; ask for it there "
            "and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"cannot load {weights}: there is no such file or folder, and no such model on Hugging "
            "Face; correct the name (a private model needs `hf auth login`)"
        ) from error
    except HfHubHTTPError:  # what it means is said by the loading itself
        return True
    except Exception as error:  # of the network; names, timeouts and proxies share no base
        if isinstance(try_to_load_from_cache(weights, CONFIG_NAME), str):
            return False
        raise CheckpointError(
            f"cannot load {weights} from Hugging Face, which does not answer "
            f"({type(error).__name__}), and there is no such file or folder; give a file, a "
            "folder with config.json and weights, or an id that this machine can reach"
        ) from error
    return True


def _require_fit(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], unknown: list[str], *, origin: str
) -> None:
    def shown(name: str) -> str:
        return ours_to_official(name) or name

    found = differences(wanted, given, unknown=unknown, shown=shown)
    if faults := found.summary():
        raise _other_architecture(origin, faults)


def _other_architecture(origin: str, faults: str) -> CheckpointError:
    return CheckpointError(
        f"{origin} is a checkpoint of another architecture ({faults}); "
        "choose the student that it was made for"
    )


def _first_line(error: Exception) -> str:
    return shorten(str(error).strip().partition("\n")[0], _LONGEST)
