"""The official encoder's attention, computed by `scaled_dot_product_attention`.

SAM adds to every score a bias that depends on the offset of key and query, along y and along x:

    score[i, j] = scale * q_i k_j + rel_y[i, y_j] + rel_x[i, x_j],    rel_y[i, y] = q_i R_y[y_i - y]

The official code writes all scores to memory three times, 800 MB each in a global block of ViT-B;
here they never get there. What is computed is the same; weights, their names and the package stay.
"""

# B windows or tiles, n heads, N = h w tokens of one, d channels of a head

from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention
from torch.nn.attention import SDPBackend, sdpa_kernel

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


def fuse_attention(encoder: nn.Module) -> None:
    """Replace the attention of every block of an official `ImageEncoderViT`, in place."""
    for block in encoder.get_submodule("blocks").children():
        block.attn = FusedAttention(block.get_submodule("attn"))


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
