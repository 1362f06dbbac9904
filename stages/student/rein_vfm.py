"""A frozen DINOv2 with Rein's tokens between its blocks, as a backbone (arXiv 2312.04265).

Written from published facts and recorded numbers; the official code is GPL-3.0 and not used. What
is frozen is no part of the module, so tokens alone are trained, averaged and saved.

# B batch, N patches, C channels, h w grid of patches, n side of a square grid
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
from stages.student.efficientnet_lite import Widths
from stages.student.rein import LowRankTokens
from store.errors import CheckpointError, ConfigError
from store.fingerprint import fingerprint_of, sha256_of_file

PATCH_PX: Final = 16
"""Published weights are for 14 px; their kernel is resized, as officially."""

FACTORS: Final = (4, 2, 1, 0.5)
"""Sides of the four maps, in those of the grid."""

TAPS_IN_12: Final = (4, 6, 8, 12)
"""Blocks that each map comes after, of 12: those with index 7, 11, 15 and 23 of ViT-L's 24."""

_KINDS: Final = ("dinov2", "dinov2_with_registers")


class FrozenViT(nn.Module):
    """The ViT without its last norm, in eval mode; a deep copy of it is itself.

    Args:
        folder: As an `hf` teacher's.
        native_px: Side of the images for which the position code is converted.

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
        layers = model.get_submodule("encoder.layer")
        assert isinstance(layers, nn.ModuleList)
        self.blocks = layers
        self.taps = taps_of(len(layers))
        given = dict(model.get_submodule("embeddings").named_parameters())
        kernel = resize_patch_kernel(given["patch_embeddings.projection.weight"], PATCH_PX)
        code = resize_position_code(given["position_embeddings"], native_px // PATCH_PX)
        self.register_buffer("kernel", kernel)
        self.register_buffer("bias", given["patch_embeddings.projection.bias"].detach())
        self.register_buffer("class_token", given["cls_token"].detach())
        self.register_buffer("code", code)
        registers = given.get("register_tokens", given["cls_token"][:, :0])
        self.register_buffer("registers", registers.detach())
        self.eval()

    def __deepcopy__(self, memo: Mapping[int, object]) -> "FrozenViT":
        """Return itself, which nothing changes: the EMA model has the same."""
        return self

    def enter(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Map images (B, 3, H, W) to what enters block 0, (B, prefix + h w, C), and to h, w."""
        buffers = dict(self.named_buffers(recurse=False))
        patches = F.conv2d(
            self.renormalise(images), buffers["kernel"], buffers["bias"], stride=PATCH_PX
        )
        grid = (patches.shape[2], patches.shape[3])
        first, registers = (
            buffers[name].expand(len(images), -1, -1) for name in ("class_token", "registers")
        )
        tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
        hidden = tokens + position_code(buffers["code"], grid)
        return torch.cat([hidden[:, :1], registers, hidden[:, 1:]], dim=1), grid


class ReinBackbone(nn.Module):
    """Four maps of one width from a frozen ViT whose blocks tokens refine.

    Args:
        folder: As of `FrozenViT`.
        config: Section `train.student.rein`.

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
        self.rein = None
        if layers:
            self.rein = LowRankTokens(
                frozen.channels, layers, tokens=config.tokens, rank=config.rank, patch_px=PATCH_PX
            )
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
        hidden, _ = self.frozen.enter(images)
        last = self.from_block - 1
        early = [tap for tap in self.frozen.taps if tap < last]
        blocks = list(self.frozen.blocks)[: self.from_block]
        *taps, hidden = refine_blocks(blocks, hidden, None, prefix=0, taps=[*early, last])
        return [*(tap[:, self.frozen.prefix :] for tap in taps), hidden]

    def finish(self, begun: Sequence[Tensor], grid: tuple[int, int]) -> list[Tensor]:
        """Run the other blocks on what `begin` returned; the four maps."""
        *early, hidden = begun
        blocks = list(self.frozen.blocks)[self.from_block :]
        taps = [tap - self.from_block for tap in self.frozen.taps[len(early) :]]
        prefix = self.frozen.prefix
        late = refine_blocks(blocks, hidden, self.rein, prefix=prefix, taps=taps)
        return pyramid([*early, *late], grid)

    def unpack(self, stored: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Return what `begin` did for tokens (B, C, rows, columns), one after the other."""
        early = sum(tap < self.from_block - 1 for tap in self.frozen.taps)
        cells = grid[0] * grid[1]
        sizes = [*[cells] * early, self.frozen.prefix + cells]
        tokens = stored.flatten(2)[..., : sum(sizes)].transpose(1, 2).contiguous()
        return list(torch.split(tokens, sizes, dim=1))


def frozen_facts(folder: Path) -> Facts:
    """Read what the small files of a frozen network say.

    Raises:
        CheckpointError: As of `FrozenViT`.
    """
    if not is_whole(folder):
        raise CheckpointError(
            f"{folder} is no folder with config.json, preprocessor_config.json and {WEIGHTS}; "
            "download a DINOv2 from Hugging Face into it, or correct the path"
        )
    facts = facts_of(folder)
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
    facts = facts_of(folder)
    about = {"config": config_digest(folder), "mean": facts.mean, "std": facts.std}
    return fingerprint_of({**digests, **about})


def refine_blocks(
    blocks: Sequence[Callable[[Tensor], Tensor]],
    hidden: Tensor,
    rein: LowRankTokens | None,
    *,
    start: int = 0,
    prefix: int = 1,
    taps: Sequence[int],
) -> list[Tensor]:
    """Run a frozen ViT's blocks, those from `start` on refined: the result is the next one's input.

    Args:
        blocks: (B, prefix + N, C) -> the same.
        hidden: What enters block 0.
        rein: Its layer 0 refines block `start`; None is the frozen control.
        start: First block that is refined.
        prefix: Leading tokens that are no patches, which pass unchanged.
        taps: Blocks whose result is returned; -1 is what enters block 0.

    Returns:
        Patches (B, N, C) after each of `taps`.
    """
    after = {-1: hidden}
    for number, block in enumerate(blocks):
        hidden = block(hidden)
        if rein is not None and number >= start:
            refined = rein(hidden[:, prefix:], number - start)
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

    Returns:
        (1, 1 + h w, C).
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
