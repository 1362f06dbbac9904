"""A frozen ViT with Rein's tokens between its blocks, as a backbone (arXiv 2312.04265).

Written from published facts and recorded numbers; the official code is GPL-3.0 and not used. What
is frozen is no part of the module, so that what trains alone is averaged and saved: the tokens, or
as a control LoRA, all blocks, or nothing.

# B batch, N patches, C channels, h w grid of patches, n side of a square grid
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from stages.efficientnet_lite import Widths
from stages.hf_models import (
    WEIGHTS,
    Facts,
    config_digest,
    facts_of,
    is_whole,
    load_model,
    weight_files,
)
from stages.renormalise import Renormalise
from stages.student.config import ReinConfig
from stages.student.rein import LowRankTokens
from store.errors import CheckpointError, ConfigError
from store.fingerprint import fingerprint_of, sha256_of_file

PATCH_PX: Final = 16
"""Published weights are for 14 px; their kernel is resized, as officially."""

FACTORS: Final = (4, 2, 1, 0.5)
"""Sides of the four maps, in those of the grid."""

TAPS_IN_12: Final = (4, 6, 8, 12)
"""Blocks that each map comes after, of 12: those with index 7, 11, 15 and 23 of ViT-L's 24."""


class _Parts(NamedTuple):
    """Where transformers keeps what a pass needs; `leading` are the tokens before the patches."""

    layers: str
    projection: str
    leading: tuple[str, ...] = ()
    code: str = ""


_DINO = _Parts(
    "encoder.layer",
    "embeddings.patch_embeddings.projection",
    ("embeddings.cls_token",),
    "embeddings.position_embeddings",
)
_SAM = _Parts("layers", "patch_embed.projection", code="pos_embed")
_KINDS: Final[Mapping[str, _Parts]] = {
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO._replace(
        leading=("embeddings.cls_token", "embeddings.register_tokens")
    ),
    "dinov3_vit": _Parts(
        "model.layer",
        "embeddings.patch_embeddings",
        ("embeddings.cls_token", "embeddings.register_tokens"),
    ),
    "sam": _SAM,
    "sam_vision_model": _SAM,
}


class FrozenViT(nn.Module):
    """The ViT without its last norm, in eval mode; a deep copy of it is itself.

    Its folder is like an `hf` teacher's. A position code is converted for images of `native_px`.

    Raises:
        CheckpointError: If the folder is missing, damaged or holds another kind of model.
    """

    def __init__(self, folder: Path, native_px: int) -> None:
        super().__init__()
        facts = frozen_facts(folder)
        self.sha256 = frozen_sha256(folder)
        model = load_model(folder, facts, name=str(folder)).eval().requires_grad_(False)
        self.prefix, self.channels = facts.prefix, facts.channels[0]
        config: Any = model.config
        self.heads: int = config.num_attention_heads
        self.renormalise = Renormalise(facts.mean, facts.std)
        parts = _KINDS[facts.model_type]
        layers = model.get_submodule(parts.layers)
        assert isinstance(layers, nn.ModuleList)
        self.blocks = layers
        self.taps = taps_of(len(layers))
        self.on_grid = parts is _SAM  # its blocks take (B, h, w, C)
        rotary = facts.model_type == "dinov3_vit"
        self.rotary = model.get_submodule("rope_embeddings") if rotary else None
        given = {name: weight.detach() for name, weight in model.named_parameters()}
        kernel = given[f"{parts.projection}.weight"]
        self.register_buffer("kernel", resize_patch_kernel(kernel, PATCH_PX))
        self.register_buffer("bias", given[f"{parts.projection}.bias"])
        leading = [given[name] for name in parts.leading]
        code = given[parts.code] if parts.code else None
        if code is not None:
            if self.on_grid:  # (1, n, n, C): put a place for a class token before it
                code = torch.cat([torch.zeros_like(code[:, 0, :1]), code.flatten(1, 2)], dim=1)
            code = resize_position_code(code, native_px // PATCH_PX)
            leading[:1] = [token + code[:, :1] for token in leading[:1]]
        self.register_buffer("code", code)
        self.register_buffer(
            "leading", torch.cat([kernel.new_empty(1, 0, self.channels), *leading], 1)
        )
        self.eval()

    def __deepcopy__(self, memo: Mapping[int, object]) -> "FrozenViT":
        """Return itself, which nothing changes: the EMA model has the same."""
        return self

    def enter(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Map images (B, 3, H, W) to what enters block 0, (B, prefix + h w, C), and to h, w."""
        buffers = dict(self.named_buffers(recurse=False))
        map_ = F.conv2d(
            self.renormalise(images), buffers["kernel"], buffers["bias"], stride=PATCH_PX
        )
        grid = (map_.shape[2], map_.shape[3])
        patches = map_.flatten(2).transpose(1, 2)
        if "code" in buffers:
            patches = patches + position_code(buffers["code"], grid)[:, 1:]
        leading = buffers["leading"].expand(len(images), -1, -1)
        return torch.cat([leading, patches], dim=1), grid

    def runners(
        self,
        blocks: Iterable[nn.Module],
        grid: tuple[int, int],
        weights: Sequence[dict[str, Tensor]] = (),
    ) -> list[Callable[[Tensor], Tensor]]:
        """Return blocks, of this network or like them, as functions of tokens (B, T, C).

        `weights`, if any, stand in for those of each block, by name.
        """
        more: dict[str, Any] = {}
        if self.rotary is not None:
            pixels = self.get_buffer("leading").new_empty(1, 3, *(PATCH_PX * side for side in grid))
            more["position_embeddings"] = self.rotary(pixels)  # cosine and sine

        def run(block: nn.Module, own: dict[str, Tensor], hidden: Tensor) -> Tensor:
            given = hidden.reshape(len(hidden), *grid, -1) if self.on_grid else hidden
            result: Tensor = functional_call(block, own, (given,), more)
            return result.flatten(1, 2) if self.on_grid else result

        return [partial(run, *each) for each in zip(blocks, weights or repeat({}), strict=False)]


class LowRankWeights(nn.Module):
    """LoRA (arXiv 2106.09685): a product of two matrices beside each weight of queries and values.

    SAM's keys have one too, as its blocks keep all three in one weight. The products begin at 0.
    """

    def __init__(self, blocks: Sequence[nn.Module], rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        for block in blocks:
            for _, weight in _adapted(block):
                self.down.append(torch.empty(rank, weight.shape[1]))
                nn.init.kaiming_uniform_(self.down[-1], a=math.sqrt(5))
                self.up.append(torch.zeros(len(weight), rank))

    def forward(self, blocks: Iterable[nn.Module]) -> list[dict[str, Tensor]]:
        """Return what stands in for the weights of each block."""
        pairs = zip(self.up, self.down, strict=True)
        return [
            {name: torch.addmm(weight, *next(pairs)) for name, weight in _adapted(block)}
            for block in blocks
        ]


def _adapted(block: nn.Module) -> list[tuple[str, nn.Parameter]]:
    ends = ("query.weight", "value.weight", "q_proj.weight", "v_proj.weight", "qkv.weight")
    return [(name, weight) for name, weight in block.named_parameters() if name.endswith(ends)]


class ReinBackbone(nn.Module):
    """Four maps of one width from a frozen ViT, in `folder`, whose blocks tokens refine.

    Raises:
        CheckpointError: As of `FrozenViT`.
        ConfigError: If the ViT has fewer blocks than `from_block`.
    """

    def __init__(self, folder: Path, config: ReinConfig) -> None:
        super().__init__()
        frozen = FrozenViT(folder, config.native_px)
        self._held = (frozen,)  # a tuple's modules are not registered
        layers = len(frozen.blocks) - config.from_block
        if layers < 0:
            raise ConfigError(
                f"train.student.rein.from_block is {config.from_block}, and {folder} has "
                f"{len(frozen.blocks)} blocks; set it to that, which refines none, or less"
            )
        self.from_block = config.from_block
        self.rein: LowRankTokens | None = None
        self.lora: LowRankWeights | None = None
        self.layers: nn.ModuleList | None = None
        others = list(frozen.blocks)[config.from_block :]
        if others and config.tune == "tokens":
            self.rein = LowRankTokens(
                frozen.channels, layers, tokens=config.tokens, rank=config.rank, patch_px=PATCH_PX
            )
        elif others and config.tune == "lora":
            self.lora = LowRankWeights(others, config.rank)
        elif others and config.tune == "all":
            self.layers = nn.ModuleList(map(deepcopy, others)).requires_grad_(True)
        stages = len(FACTORS)
        self.config = Widths((frozen.channels,) * stages, (frozen.heads,) * stages)

    @property
    def frozen(self) -> FrozenViT:
        """What the tokens refine."""
        return self._held[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ReinBackbone":
        """Move what is frozen along to a device."""
        self.frozen._apply(fn)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W), sides multiples of 32, to maps at strides 4, 8, 16, 32."""
        return self.finish(self.begin(images), grid_of(images))

    def begin(self, images: Tensor) -> list[Tensor]:
        """Run what images (B, 3, H, W) pass before block `from_block`, where nothing trains.

        Returns:
            Patches (B, N, C) after each tap before the last of these blocks, then what enters
            block `from_block`, (B, prefix + N, C).
        """
        assert not any(side % 32 for side in images.shape[2:]), "fill images to multiples of 32 px"
        hidden, grid = self.frozen.enter(images)
        last = self.from_block - 1
        early = [tap for tap in self.frozen.taps if tap < last]
        blocks = self.frozen.runners(list(self.frozen.blocks)[: self.from_block], grid)
        *taps, hidden = refine_blocks(blocks, hidden, None, prefix=0, taps=[*early, last])
        return [*(tap[:, self.frozen.prefix :] for tap in taps), hidden]

    def finish(self, begun: Sequence[Tensor], grid: tuple[int, int]) -> list[Tensor]:
        """Run the other blocks on what `begin` returned; the four maps."""
        *early, hidden = begun
        others = list(self.frozen.blocks[self.from_block :] if self.layers is None else self.layers)
        weights = [] if self.lora is None else self.lora(others)
        blocks = self.frozen.runners(others, grid, weights)
        taps = [tap - self.from_block for tap in self.frozen.taps[len(early) :]]
        prefix = self.frozen.prefix
        late = refine_blocks(blocks, hidden, self.rein, prefix=prefix, taps=taps)
        return pyramid([*early, *late], grid)

    def unpack(self, stored: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Return what `begin` did for tokens (B, C, rows, columns), one after the other.

        In memory they lie as there, on which last bits of gradients depend.
        """
        early = sum(tap < self.from_block - 1 for tap in self.frozen.taps)
        cells, prefix = grid[0] * grid[1], self.frozen.prefix
        sizes = [*[cells] * early, prefix + cells]
        tokens = stored.flatten(2)[..., : sum(sizes)].transpose(1, 2)
        *taps, hidden = torch.split(tokens, sizes, dim=1)
        return [
            *(F.pad(tap.contiguous(), (0, 0, prefix, 0))[:, prefix:] for tap in taps),
            hidden.contiguous(),
        ]


def frozen_facts(folder: Path) -> Facts:
    """Read what the small files of a frozen network say.

    Raises:
        CheckpointError: As of `FrozenViT`.
    """
    if not is_whole(folder):
        raise CheckpointError(
            f"{folder} is not a folder with config.json, preprocessor_config.json and {WEIGHTS}; "
            "download a DINOv2, DINOv3 or SAM from Hugging Face into it, or correct the path"
        )
    facts = facts_of(folder, frozen=True)
    if facts.model_type not in _KINDS or facts.depth < len(TAPS_IN_12):
        raise CheckpointError(
            f"{folder} holds {facts.model_type} with {facts.depth} blocks, and rein_vfm takes "
            f"{' or '.join(_KINDS)} with {len(TAPS_IN_12)} or more"
        )
    return facts


def taps_of(depth: int) -> list[int]:
    """Return the blocks, of this many, that the maps come after."""
    return [depth * number // 12 - 1 for number in TAPS_IN_12]


def grid_of(images: Tensor) -> tuple[int, int]:
    """Return the grid of patches of images (B, 3, H, W)."""
    return images.shape[2] // PATCH_PX, images.shape[3] // PATCH_PX


def frozen_sha256(folder: Path) -> str:
    """Hash what a frozen network computes with: configuration, normalisation and all weights."""
    digests = {path.name: sha256_of_file(path) for path in weight_files(folder)}
    facts = facts_of(folder, frozen=True)
    about = {"config": config_digest(folder), "mean": facts.mean, "std": facts.std}
    return fingerprint_of({**digests, **about})


def refine_blocks(
    blocks: Sequence[Callable[[Tensor], Tensor]],
    hidden: Tensor,
    rein: LowRankTokens | None,
    *,
    prefix: int = 1,
    taps: Sequence[int],
) -> list[Tensor]:
    """Run blocks of a frozen ViT, each refined: the result is the next one's input.

    Args:
        blocks: (B, prefix + N, C) -> the same.
        hidden: What enters block 0.
        rein: Its layer 0 refines block 0; None refines none.
        prefix: Leading tokens that are not patches, which pass unchanged.
        taps: Blocks after which patches (B, N, C) are returned; -1 is what enters block 0.
    """
    after = {-1: hidden}
    for number, block in enumerate(blocks):
        hidden = block(hidden)
        if rein is not None:
            refined = rein(hidden[:, prefix:], number)
            hidden = torch.cat([hidden[:, :prefix], refined], dim=1)
        if number in taps:
            after[number] = hidden
    return [after[number][:, prefix:] for number in taps]


def pyramid(taps: Sequence[Tensor], grid: tuple[int, int]) -> list[Tensor]:
    """Resize patches (B, N, C) of four taps to 4, 2, 1 and 1/2 times the grid, (B, C, h, w).

    An odd side is halved downwards and sampled at every second cell, as officially: factors, not
    sizes, are what is given.
    """
    maps = [tap.transpose(1, 2).reshape(*tap.shape[::2], *grid) for tap in taps]
    return [
        map_
        if factor == 1
        else F.interpolate(map_, scale_factor=factor, mode="bilinear", align_corners=False)
        for map_, factor in zip(maps, FACTORS, strict=True)
    ]


def position_code(stored: Tensor, grid: tuple[int, int]) -> Tensor:
    """Fit a square position code (1, 1 + n^2, C), class token first, to another grid.

    Kept as it is on its own grid. Elsewhere resized by the factors (h + 0.1) / n and (w + 0.1) / n,
    as official DINOv2 does; transformers resizes to the size, which gives other numbers.
    """
    side = math.isqrt(stored.shape[1] - 1)
    if grid == (side, side):
        return stored
    factors = [(cells + 0.1) / side for cells in grid]
    return _resample_code(stored, scale_factor=factors)


def resize_position_code(stored: Tensor, side: int) -> Tensor:
    """Convert a square position code (1, 1 + n^2, C) to another square grid, once and for all."""
    return _resample_code(stored, size=(side, side))


def resize_patch_kernel(kernel: Tensor, side_px: int) -> Tensor:
    """Convert the kernel (C, 3, p, p) of a patch embedding to another patch; not rescaled."""
    return F.interpolate(kernel, (side_px, side_px), mode="bicubic", align_corners=False)


def _resample_code(
    stored: Tensor,
    *,
    size: tuple[int, int] | None = None,
    scale_factor: list[float] | None = None,
) -> Tensor:
    side = math.isqrt(stored.shape[1] - 1)
    cells = stored[:, 1:].transpose(1, 2).reshape(1, -1, side, side)  # (1, C, n, n)
    resized = F.interpolate(cells, size, scale_factor, mode="bicubic", align_corners=False)
    return torch.cat([stored[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)
