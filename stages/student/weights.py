"""Weights made elsewhere: their names in three tongues, official files and Hugging Face."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from textwrap import shorten
from typing import Final, Literal

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.constants import CONFIG_NAME, PYTORCH_WEIGHTS_NAME, SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
from torch import Tensor, nn
from transformers import SegformerModel

from stages.hf_models import read_config
from stages.student.config import IMAGENET, is_hub_id
from stages.weight_files import differences, prefixes_of, read_tensors
from store.errors import CheckpointError

SEGFORMER: Final = "encoder.patch_embeddings.0.proj.weight"
"""A tensor of transformers' files, and of no other."""

_PATIENCE_S: Final = 10.0  # for an answer of the hub
_STEM: Final = "patch_embed1.proj.weight"
_PREFIXES: Final = {"student": "model.", "ema": "ema_model."}  # of a file of self-training
_NO_IMPORT: Final = (
    SEGFORMER,
    "stages.0.patch_embeddings.proj.weight",  # of a student of this project
    "stages.0.4._depthwise_conv.weight",  # of one with EfficientNet-Lite
    "_conv_stem.weight",  # of EfficientNet-Lite itself
)
"""Tensors of files that need no import."""

IMAGENET_HEAD: Final = "head."
"""Classifier of MiT's ImageNet files, which SegFormer drops as well."""

Kind = Literal["training", "student", "backbone"]
Network = Literal["student", "ema"]

# Names in the state dicts of `Student` and `Regularizer`, in the official code, and in SegFormer's
# published files, which transformers reads in every version (its own modules were renamed between 4
# and 5); None where there is no such tensor. {s}: stage from 0, {n}: the same from 1, {b}: block or
# branch. An official tensor of two rows is the concatenation of two of ours, keys before values.
_OURS, _OFFICIAL, _SEGFORMER = range(3)
_NAMES: Final[tuple[tuple[str | None, str | None, str | None], ...]] = (
    *(
        (f"backbone.stages.{{s}}.{ours}", f"backbone.{official}", f"segformer.encoder.{theirs}")
        for ours, official, theirs in (
            ("patch_embeddings.proj", "patch_embed{n}.proj", "patch_embeddings.{s}.proj"),
            (
                "patch_embeddings.layer_norm",
                "patch_embed{n}.norm",
                "patch_embeddings.{s}.layer_norm",
            ),
            ("layer_norm", "norm{n}", "layer_norm.{s}"),
        )
    ),
    *(
        (
            f"backbone.stages.{{s}}.blocks.{{b}}.{ours}",
            f"backbone.block{{n}}.{{b}}.{official}",
            f"segformer.encoder.block.{{s}}.{{b}}.{theirs}",
        )
        for ours, official, theirs in (
            ("layernorm_before", "norm1", "layer_norm_1"),
            ("attention.q_proj", "attn.q", "attention.self.query"),
            ("attention.k_proj", "attn.kv", "attention.self.key"),
            ("attention.v_proj", "attn.kv", "attention.self.value"),
            ("attention.o_proj", "attn.proj", "attention.output.dense"),
            ("attention.sequence_reduction.sequence_reduction", "attn.sr", "attention.self.sr"),
            ("attention.sequence_reduction.layer_norm", "attn.norm", "attention.self.layer_norm"),
            ("layernorm_after", "norm2", "layer_norm_2"),
            ("mlp.fc1", "mlp.fc1", "mlp.dense1"),
            ("mlp.dwconv.dwconv", "mlp.dwconv.dwconv", "mlp.dwconv.dwconv"),
            ("mlp.fc2", "mlp.fc2", "mlp.dense2"),
        )
    ),
    *(
        (f"head.{ours}", f"decode_head.fuse_layer.{official}", None)
        for ours, official in (
            ("aspp.{b}.conv", "aspp_modules.{b}.conv"),
            ("aspp.{b}.bn", "aspp_modules.{b}.bn"),
            ("aspp.{b}.depthwise.conv", "aspp_modules.{b}.depthwise_conv.conv"),
            ("aspp.{b}.depthwise.bn", "aspp_modules.{b}.depthwise_conv.bn"),
            ("aspp.{b}.pointwise.conv", "aspp_modules.{b}.pointwise_conv.conv"),
            ("aspp.{b}.pointwise.bn", "aspp_modules.{b}.pointwise_conv.bn"),
            ("bottleneck.conv", "bottleneck.conv"),
            ("bottleneck.bn", "bottleneck.bn"),
        )
    ),
    ("head.embed.{s}", "decode_head.embed_layers.{s}.proj", None),
    ("head.classifier", "decode_head.conv_seg", "decode_head.classifier"),
    ("head.linear_projections.{s}.proj", None, "decode_head.linear_c.{s}.proj"),
    ("head.linear_fuse", None, "decode_head.linear_fuse"),
    ("head.batch_norm", None, "decode_head.batch_norm"),
    *(
        (f"attention.{ours}", f"decode_head.scale_attention.{official}", None)
        for ours, official in (
            ("embed.{s}", "embed_layers.{s}.proj"),
            ("bottleneck.conv", "fuse_layer.conv"),
            ("bottleneck.bn", "fuse_layer.bn"),
            ("classifier", "conv_seg"),
        )
    ),
    ("embed.{s}", "embedding_layer.{s}.proj", None),
    ("fusion.{s}.q", "fusion_layer.{s}.q", None),
    ("fusion.{s}.kv", "fusion_layer.{s}.kv", None),
    ("fusion.{s}.proj", "fusion_layer.{s}.proj", None),
)


def official_to_ours(name: str) -> tuple[str, ...]:
    """Translate a tensor name; two names where ours are two parts of it, none where unknown."""
    return tuple(_translations(name, _OFFICIAL, _OURS))


def ours_to_official(name: str) -> str | None:
    """Translate a tensor name of ours; None where the official code has no such tensor."""
    return next(_translations(name, _OURS, _OFFICIAL), None)


def official_name(name: str) -> str:
    """Translate a tensor name of ours for a message."""
    return ours_to_official(name) or name


def import_official(official: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Translate names and split what is fused.

    Returns:
        Tensors under our names, and the official names that no rule knows.
    """
    ours: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in official.items():
        if names := official_to_ours(name):
            parts = tensor.tensor_split(len(names)) if len(names) > 1 else (tensor,)
            ours.update(zip(names, parts, strict=True))
        else:
            unknown.append(name)
    return ours, unknown


def to_segformer(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a student with MLP head."""
    return {next(_translations(name, _OURS, _SEGFORMER), name): t for name, t in ours.items()}


def from_segformer(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename back; a name that no rule knows stays, for the reader to complain about."""
    return {next(_translations(name, _SEGFORMER, _OURS), name): t for name, t in theirs.items()}


def _translations(name: str, source: int, target: int) -> Iterator[str]:
    """Yield what each row of the table that the name follows makes of it."""
    stem, _, leaf = name.rpartition(".")
    for row in _NAMES:
        template, other = row[source], row[target]
        if template is None or other is None or not (found := _pattern(template).fullmatch(stem)):
            continue
        indices = {key: int(value) for key, value in found.groupdict().items()}
        if "n" in indices:
            indices["s"] = indices["n"] - 1
        elif "s" in indices:
            indices["n"] = indices["s"] + 1
        yield f"{other.format(**indices)}.{leaf}"


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(template)))


def load_backbone(backbone: SegformerModel, weights: str) -> None:
    """Fill a backbone, in place; its epsilons, drop path and attention stay as built.

    Args:
        backbone: As built by `build_backbone`.
        weights: An official file (ImageNet's `mit_b*.pth`, or any official training, whose student
            backbone is taken), or a Hugging Face folder or id such as `nvidia/mit-b5`.

    Raises:
        CheckpointError: If the weights are missing, damaged or of another architecture.
    """
    path = _weight_file(weights)
    tensors, unknown = _read_backbone(path)
    network = nn.ModuleDict({"backbone": backbone})
    wanted = network.state_dict()
    faults = differences(wanted, tensors, unknown=unknown, shown=official_name).summary()
    if not faults and not Path(weights).expanduser().is_file():  # no tensor tells
        heads = list(backbone.config.num_attention_heads)
        given = getattr(read_config(path.parent), "num_attention_heads", None)
        faults = "" if given == heads else f"{given} attention heads, not {heads}"
    if faults:
        raise CheckpointError(
            f"{weights} is a checkpoint of another architecture ({faults}); "
            "choose the student that it was made for"
        )
    network.load_state_dict(tensors)


def is_of_segmenter(weights: str) -> bool:
    """Tell whether weights that a student took come with a decode head, unlike ImageNet's."""
    if weights == IMAGENET:
        return False
    return any("decode_head." in name for name in read_tensors(_weight_file(weights))[0])


def _weight_file(weights: str) -> Path:
    """Find a file of weights, or that of a Hugging Face folder or id."""
    path = Path(weights).expanduser()
    if path.is_dir():
        found = path / SAFETENSORS_SINGLE_FILE
        return found if found.is_file() else path / PYTORCH_WEIGHTS_NAME
    return path if path.is_file() else _fetched(weights)


def _fetched(model: str) -> Path:
    """Fetch a model from the hub or, where that is out of reach, from its cache; its weights.

    The hub is asked once before: `hf_hub_download` asks it for half a minute.
    """
    if not is_hub_id(model):
        raise CheckpointError(
            f"{model}: there is no such file or folder, and it is not a Hugging Face id, "
            "which is owner/name as nvidia/mit-b5; download it (MiT on ImageNet: "
            "github.com/NVlabs/SegFormer), correct it, or say random"
        )
    fault: Exception | None = None
    try:
        get_hf_file_metadata(hf_hub_url(model, CONFIG_NAME), timeout=_PATIENCE_S)
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{model}: there is no such file or folder, and no such model on Hugging Face; "
            "correct the name (a private or gated model needs `hf auth login`)"
        ) from error
    except Exception as error:  # of the network; names, timeouts and proxies share no base
        fault = error
    fetch = partial(hf_hub_download, model, local_files_only=fault is not None)
    try:
        fetch(CONFIG_NAME)
        try:
            return Path(fetch(SAFETENSORS_SINGLE_FILE))
        except EntryNotFoundError:
            return Path(fetch(PYTORCH_WEIGHTS_NAME))
    except Exception as error:  # as above
        fault = fault or error
        reason = shorten(f"{type(fault).__name__}: {fault}", 100)
        raise CheckpointError(
            f"cannot load {model} from Hugging Face ({reason}); give a file, a folder with "
            "config.json and weights, or an id that this machine can reach"
        ) from error


def _read_backbone(path: Path) -> tuple[dict[str, Tensor], Sequence[str]]:
    """Read the tensors `backbone.*` by our names, and names in the file that no rule knows."""
    content, _ = read_tensors(path)
    if theirs := prefixes_of(content, SEGFORMER):
        named = {f"segformer.{n.removeprefix(theirs[0])}": t for n, t in content.items()}
        ours, unknown = from_segformer(named), list[str]()
    else:
        _, official = network_of(content, "student", path)
        kept = r"backbone\.(?!head\.)"  # the official loader drops ImageNet's classifier, too
        ours, unknown = import_official({n: t for n, t in official.items() if re.match(kept, n)})
    return {n: tensor for n, tensor in ours.items() if n.startswith("backbone.")}, unknown


def network_of(
    content: Mapping[str, Tensor], network: Network, path: Path
) -> tuple[Kind, dict[str, Tensor]]:
    """Pick a network out of an official file, by names as `backbone.*` and `decode_head.*`.

    Raises:
        CheckpointError: If the file holds something else, or several networks.
    """
    if any(prefixes_of(content, tensor) for tensor in _NO_IMPORT):
        raise CheckpointError(
            f"{path} needs no import: give a student of this project by its folder, as train.init "
            "to train it on, a Segformer of transformers as train.student.weights; "
            "EfficientNet-Lite has its own, imagenet"
        )
    stem = _prefix_of_backbone(content, path)
    outer = stem.removesuffix("backbone.")
    if f".{outer}".endswith(".model."):
        prefix = outer.removesuffix(_PREFIXES["student"]) + _PREFIXES[network]
        tensors = {n.removeprefix(prefix): t for n, t in content.items() if n.startswith(prefix)}
        if not tensors:
            raise CheckpointError(
                f"{path} holds no {network} network ({prefix}*); choose the other with --weights"
            )
        return "training", tensors
    if network == "ema":
        raise CheckpointError(
            f"{path} is not of a self-training and holds one network only; leave --weights out"
        )
    inner = {name.removeprefix(outer): tensor for name, tensor in content.items()}
    if stem.endswith("backbone."):
        return "student", inner
    # the ImageNet classifier keeps its name, so that it is reported and not taken for a backbone's
    bare = {n if n.startswith(IMAGENET_HEAD) else f"backbone.{n}": t for n, t in inner.items()}
    return "backbone", bare


def _prefix_of_backbone(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Find the student of a file: what stands before the official names of its backbone.

    That is `model.backbone.` in a training, `backbone.` in an mmseg model, nothing in ImageNet's
    weights; all perhaps behind others, as `module.`.
    """
    found = prefixes_of(tensors, _STEM)
    trained = [p for p in found if f".{p}".endswith(".model.backbone.")]
    single = trained or [p for p in found if not re.search(r"\b(ema|imnet)_model\.", p)]
    if len(single) > 1:
        raise CheckpointError(
            f"{path} holds several backbones ({', '.join(single)}); save the tensors of one alone"
        )
    return single[0] if single else ""
