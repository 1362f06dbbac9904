"""SAM's image encoder, from the official package, and the weights of its checkpoints.

`segment_anything/__init__` needs torchvision, which the encoder does not; the encoder's module is
therefore imported without running it. Everything is built on the meta device and gets its tensors
from the checkpoint, so that no second copy of the weights is ever made.

Attention is computed by `scaled_dot_product_attention`. SAM adds to every score a bias that depends
on the offset of key and query, along y and along x:

    score[i, j] = scale * q_i k_j + rel_y[i, y_j] + rel_x[i, x_j],    rel_y[i, y] = q_i R_y[y_i - y]

The official code writes all scores to memory three times, 800 MB each in a global block of ViT-B;
here they never get there. What is computed is the same; weights, their names and the package stay.
"""

# B tiles, or windows of attention; C channels, h w tokens, N = h w, n heads, d channels of a head

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stages.embed.teachers.sam_sizes import ARCHITECTURES, NORM_EPS, Architecture, ArchitectureName
from stages.embed.teachers.teacher import file_sha256
from stages.weight_files import differences, prefixes_of, read_tensors
from store.errors import CheckpointError, ConfigError

PREFIX: Final = "image_encoder."
_OFFICIAL_NAME: Final = re.compile(r"sam_vit_[blh]_([0-9a-f]{6})\.pth")
_ANCHOR: Final = "neck.0.weight"  # every encoder of SAM has it, and no other part
HUGGING_FACE: Final = {
    "vision_encoder.": PREFIX,
    "patch_embed.projection.": "patch_embed.proj.",
    "neck.conv1.": "neck.0.",
    "neck.layer_norm1.": "neck.1.",
    "neck.conv2.": "neck.2.",
    "neck.layer_norm2.": "neck.3.",
    "layers.": "blocks.",
    "layer_norm1.": "norm1.",
    "layer_norm2.": "norm2.",
}
"""Part of a name in transformers' SamModel -> the official one, in the order to replace them."""


def build_encoder(architecture: Architecture) -> nn.Module:
    """Build the official `ImageEncoderViT` with freshly initialised weights.

    Raises:
        ConfigError: if `segment_anything` is not installed.
    """
    return _official_class()(
        img_size=architecture.side_px,
        patch_size=architecture.patch_px,
        embed_dim=architecture.width,
        depth=architecture.depth,
        num_heads=architecture.heads,
        mlp_ratio=architecture.mlp_ratio,
        out_chans=architecture.channels,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=NORM_EPS),
        use_rel_pos=True,
        window_size=architecture.window_tok,
        global_attn_indexes=architecture.global_blocks,
    )


@cache
def macs_per_tile(name: ArchitectureName) -> int:
    """Count the multiply-accumulates of one tile: 486, 1,493 and 2,981 GMAC for ViT-B, L and H.

    Those of the official `ImageEncoderViT`, with the padding of grids that are not a multiple of
    the window. Norms, activations and softmax are left out, as is the custom.
    """
    side_px = ARCHITECTURES[name].side_px
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build_encoder(ARCHITECTURES[name])(torch.empty(1, 3, side_px, side_px))
    return int(counter.get_total_flops()) // 2


def draw_encoder(architecture: Architecture, seed: int) -> nn.Module:
    """Build an untrained encoder: the official initialisation, the same for the same seed."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return build_encoder(architecture)


def load_encoder(architecture: Architecture, path: Path) -> nn.Module:
    """Build an encoder with the weights of a SAM checkpoint; see `read_weights`.

    Raises:
        CheckpointError: for a file that is missing, damaged or of another architecture.
    """
    weights = read_weights(path)
    with torch.device("meta"):
        encoder = build_encoder(architecture)
    if faults := differences(encoder.state_dict(), weights).summary():
        raise CheckpointError(
            f"{path}: does not fit SAM's encoder {architecture.name} ({faults}); give its official "
            "checkpoint, or change embed.teacher.architecture"
        )
    encoder.load_state_dict(weights, strict=True, assign=True)
    return encoder


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the image encoder of a SAM checkpoint under its official names, as float32.

    Args:
        path: The official file, the encoder alone, what trainers wrap around either (`model`,
            `state_dict`, `module.`, ...), or transformers' SamModel.

    Raises:
        CheckpointError: for a file that is missing, damaged or holds no image encoder.
    """
    tensors, _ = read_tensors(path)
    if official := _OFFICIAL_NAME.fullmatch(path.name):
        found = file_sha256(path)
        if not found.startswith(official[1]):
            raise CheckpointError(
                f"{path}: sha256 starts with {found[:6]}, the official file's with {official[1]}; "
                "download it again"
            )
    if any("vision_encoder." in name for name in tensors):
        tensors = {_official(name): tensor for name, tensor in tensors.items()}
    prefixes = sorted({n[: n.index(PREFIX) + len(PREFIX)] for n in tensors if PREFIX in n})
    prefixes = prefixes or prefixes_of(tensors, _ANCHOR)  # of the encoder alone
    if len(prefixes) != 1:
        names = prefixes or sorted({f"{name.partition('.')[0]}." for name in tensors})[:5]
        raise CheckpointError(
            f"{path}: holds {len(prefixes)} image encoders of SAM "
            f"({', '.join(f'{name}*' for name in names)}); give a checkpoint with one"
        )
    prefix = prefixes[0]
    return {n.removeprefix(prefix): t.float() for n, t in tensors.items() if n.startswith(prefix)}


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Hash names, shapes and float32 values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _official_class() -> type[nn.Module]:
    package = "segment_anything"
    known = sys.modules.get(package)
    if known is None:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ConfigError(f"{package} is not installed; run: pip install {package}")
        # An empty package with the right __path__ is enough for its submodules to be found.
        sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        module = importlib.import_module(f"{package}.modeling.image_encoder")
    finally:
        if known is None:
            del sys.modules[package]  # nobody else shall meet the empty one
    return cast(type[nn.Module], module.ImageEncoderViT)


def _official(name: str) -> str:
    for theirs, official in HUGGING_FACE.items():
        name = name.replace(theirs, official)
    return name


BIAS_VALUES: Final = 2**25
"""Values of the bias that exist at a time on the CPU: 128 MiB, two heads of ViT-B."""


class FusedAttention(nn.Module):
    """Stands in for the official `Attention` in a block, with its parameters and their names.

    Args:
        official: `segment_anything.modeling.image_encoder.Attention`; its parameters are shared.
    """

    def __init__(self, official: nn.Module) -> None:
        super().__init__()
        self.num_heads = cast(int, official.num_heads)
        self.scale = cast(float, official.scale)
        self.qkv = official.get_submodule("qkv")
        self.proj = official.get_submodule("proj")
        self.rel_pos_h = official.get_parameter("rel_pos_h")  # (2h - 1, d)
        self.rel_pos_w = official.get_parameter("rel_pos_w")  # (2w - 1, d)

    def forward(self, x: Tensor) -> Tensor:
        """Let tokens attend to each other.

        Args:
            x: (B, h, w, C), the grid that the position tables were made for.

        Returns:
            (B, h, w, C).
        """
        batch, height, width, _ = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, n, N, d) each
        attend = _attend_with_bias if x.device.type == "cpu" else _attend_with_longer_keys
        mixed = attend(q, k, v, _offsets(self.rel_pos_h), _offsets(self.rel_pos_w), self.scale)
        return cast(Tensor, self.proj(mixed.transpose(1, 2).reshape(batch, height, width, -1)))


def fuse_attention(encoder: nn.Module) -> nn.Module:
    """Replace the attention of every block of an official `ImageEncoderViT`, and return it."""
    for block in encoder.get_submodule("blocks").children():
        block.attn = FusedAttention(block.get_submodule("attn"))
    return encoder


def _offsets(table: Tensor) -> Tensor:
    """Spread a table (2s - 1, d) by offset over queries and keys: (s, s, d)."""
    at = torch.arange((len(table) + 1) // 2, device=table.device)
    return table[at[:, None] - at[None, :] + len(at) - 1]


def _relative(q: Tensor, by_y: Tensor, by_x: Tensor) -> tuple[Tensor, Tensor]:
    """Bias of each query (B, n, h, w) towards each row (.., h) and each column (.., w) of keys."""
    grid = q.reshape(*q.shape[:2], len(by_y), len(by_x), -1)  # (B, n, h, w, d)
    rel_y = torch.einsum("bnyxd,ykd->bnyxk", grid, by_y.to(q.dtype))
    rel_x = torch.einsum("bnyxd,xkd->bnyxk", grid, by_x.to(q.dtype))
    return rel_y, rel_x


def _attend_with_bias(
    q: Tensor, k: Tensor, v: Tensor, by_y: Tensor, by_x: Tensor, scale: float
) -> Tensor:
    """For the CPU: the bias of a few heads at a time, in one buffer.

    Always in float32: the CPU's kernel is not faster in bfloat16 (measured: 0.85 s against 0.81 s
    for a global block of ViT-B on one core), and float32 is closer to what the weights mean.
    """
    dtype, shape, tokens = q.dtype, q.shape, q.shape[2]
    with torch.autocast("cpu", enabled=False):
        q, k, v = (part.float() for part in (q, k, v))
        rel_y, rel_x = (rel.flatten(2, 3).flatten(0, 1) for rel in _relative(q, by_y, by_x))
        q, k, v = (part.flatten(0, 1)[None] for part in (q, k, v))  # (1, B n, N, d)
        heads = q.shape[1]
        step = min(heads, max(1, BIAS_VALUES // tokens**2))
        # One buffer for all: touching fresh memory costs more than filling it.
        bias = q.new_empty(1, step, tokens, len(by_y), len(by_x))
        mixed = torch.empty_like(q)
        for start in range(0, heads, step):
            part = slice(start, start + step)
            y, x = rel_y[None, part, :, :, None], rel_x[None, part, :, None, :]
            used = torch.add(y, x, out=bias[:, : y.shape[1]])
            mixed[:, part] = F.scaled_dot_product_attention(
                q[:, part], k[:, part], v[:, part], attn_mask=used.flatten(3), scale=scale
            )
    return mixed.view(shape).to(dtype)


def _attend_with_longer_keys(
    q: Tensor, k: Tensor, v: Tensor, by_y: Tensor, by_x: Tensor, scale: float
) -> Tensor:
    """For GPUs: no bias at all, so that kernels, which take none or only slowly, can run.

    The bias is a product too: append rel_y and rel_x to the query, and to the key one-hot codes of
    its row and column.
    """
    (batch, heads, tokens, own), height, width = q.shape, len(by_y), len(by_x)
    ends = (own, own + height, own + height + width)
    whole = ends[-1] + -ends[-1] % 8  # flash needs multiples of eight
    # In the order in memory that the projection wants of the result: (B, N, n, d).
    longer = q.new_zeros if whole > ends[-1] else q.new_empty
    longer_q, longer_k = longer(2, batch, tokens, heads, whole)
    longer_q[..., :own] = q.transpose(1, 2)
    longer_k[..., :own] = k.transpose(1, 2)
    grids = (part.unflatten(1, (height, width)) for part in (longer_q, longer_k))
    (q_y, q_x), (k_y, k_x) = (
        (grid[..., ends[0] : ends[1]], grid[..., ends[1] : ends[2]]) for grid in grids
    )
    # Dividing the tables, not their products, rounds once; the kernel multiplies by scale.
    rel_y, rel_x = _relative(q, by_y / scale, by_x / scale)
    q_y.copy_(rel_y.permute(0, 2, 3, 1, 4))
    q_x.copy_(rel_x.permute(0, 2, 3, 1, 4))
    k_y.copy_(torch.eye(height, dtype=q.dtype, device=q.device)[:, None, None])
    k_x.copy_(torch.eye(width, dtype=q.dtype, device=q.device)[:, None])
    q, k = longer_q.transpose(1, 2), longer_k.transpose(1, 2)
    if (mixed := _attend_by_cudnn(q, k, v, scale)) is not None:
        return mixed
    # The other kernels want one width for all three.
    mixed = F.scaled_dot_product_attention(q, k, F.pad(v, (0, whole - own)), scale=scale)
    return mixed[..., :own]


_refused: Final[set[tuple[torch.Size, torch.Size, torch.dtype]]] = set()
"""Shapes of q and v that cuDNN does not compute here, though it says so."""


def _attend_by_cudnn(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor | None:
    """Let cuDNN do it, which leaves values as narrow as they are; None where it cannot."""
    if not q.is_cuda or torch.compiler.is_compiling():
        return None
    case = (q.shape, v.shape, q.dtype)
    if case in _refused or not can_use_cudnn_attention(
        SDPAParams(q, k, v, None, 0.0, False, False)
    ):
        return None
    try:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        _refused.add(case)
        return None
