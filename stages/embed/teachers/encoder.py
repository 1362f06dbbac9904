"""Networks on batches of tiles: what all have in common, and those of transformers and ImageNet."""

# B tiles, C channels, h w tokens

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.efficientnet_lite import MEAN, STD, EfficientNetLite
from stages.embed.teachers.teacher import Precision
from stages.hf_models import Facts
from stages.renormalise import Renormalise
from store.errors import ConfigError


class Encoder:
    """The loaded network of a teacher: it maps normalised tiles to tokens.

    Args:
        network: with its weights; it returns level -> (B, C, h, w) of tiles (B, 3, side, side), or
            one such map, that of whichever level is asked for.
        precision: the halves run under autocast; weights and the sums of residuals stay float32.
        compiled: True runs it through `torch.compile`, which takes minutes at the first batch.

    Raises:
        ConfigError: for float16 on the CPU, which computes it slower than float32, if at all.
    """

    def __init__(
        self,
        network: nn.Module,
        side_px: int,
        device: torch.device,
        precision: Precision,
        *,
        compiled: bool = False,
    ) -> None:
        if precision == "float16" and device.type == "cpu":
            raise ConfigError(
                "embed.precision float16 needs a GPU; on the CPU set it to bfloat16 or float32"
            )
        self.device = device
        self.side_px = side_px
        self.network = network.to(device).eval().requires_grad_(False)
        self._precision = precision
        self._forward = torch.compile(network) if compiled else network

    def encode(self, tiles: Tensor, levels: Sequence[str]) -> dict[str, Tensor]:
        """Encode (B, 3, side_px, side_px), wait for it and return it on the CPU; see `start`."""
        return {level: part.cpu() for level, part in self.start(list(tiles), levels).items()}

    def start(self, tiles: Sequence[Tensor], levels: Sequence[str]) -> dict[str, Tensor]:
        """Begin to encode a batch of tiles; a GPU works on while the caller does something else.

        Tiles are each (3, side_px, side_px) float32, RGB normalised as the student's, on any
        device; the levels are of one input scale.

        Returns:
            level -> (B, C, h, w) float32, on the encoder's device.

        Raises:
            ConfigError: for more tiles than fit in the GPU's memory.
        """
        dtype = getattr(torch, self._precision)
        half = dtype != torch.float32
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=half):
                maps = self._forward(torch.stack([tile.to(self.device) for tile in tiles]))
                features = {levels[0]: maps} if isinstance(maps, Tensor) else maps
                return {level: features[level].float() for level in levels}
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"{len(tiles)} tiles of {self.side_px} px are too many for the memory of "
                f"{self.device}; lower embed.batch_tiles"
            ) from error


class HfNetwork(nn.Module):
    """A model from tiles normalised as the student's to the maps of its levels, all in one pass.

    `blocks` of a ViT are those whose tokens are maps; `norm` applies its last LayerNorm to them.
    `places` are those of the levels among the maps.
    """

    def __init__(
        self,
        model: nn.Module,
        facts: Facts,
        blocks: Sequence[int],
        places: Mapping[str, int],
        *,
        norm: bool,
    ) -> None:
        super().__init__()
        self.renormalise = Renormalise(facts.mean, facts.std)
        self.model, self.facts, self.blocks, self.places = model, facts, tuple(blocks), places
        self.norm = model.get_submodule(facts.family.norm) if norm else nn.Identity()

    def forward(self, tiles: Tensor) -> dict[str, Tensor]:
        """Return each level (B, C, h, w) of tiles (B, 3, side, side)."""
        family = self.facts.family
        outputs = self.model(self.renormalise(tiles), output_hidden_states=True)
        if family.strides:
            maps = getattr(outputs, family.maps)[-len(family.strides) :]
        else:
            side = tiles.shape[-1] // self.facts.patch_px
            maps = [
                # the first hidden state is what enters block 0; class and registers come first
                self.norm(outputs.hidden_states[block + 1])[:, self.facts.prefix :]
                .transpose(1, 2)
                .unflatten(2, (side, side))
                for block in self.blocks
            ]
        return {level: maps[place] for level, place in self.places.items()}


class Pyramid(nn.Module):
    """The network from tiles normalised as the student's to the maps of its levels.

    Args:
        levels: names of its strides 8, 16 and 32, and of all three on the grid of the first.
    """

    def __init__(self, network: EfficientNetLite, levels: Sequence[str]) -> None:
        super().__init__()
        self.renormalise = Renormalise((MEAN,) * 3, (STD,) * 3)
        self.network = network
        self.levels = levels

    def forward(self, tiles: Tensor) -> Mapping[str, Tensor]:
        """Return each level (B, C, h, w) of tiles (B, 3, side, side)."""
        _, fine, *coarse = self.network(self.renormalise(tiles))
        resized = (
            F.interpolate(map_, fine.shape[2:], mode="bilinear", align_corners=False)
            for map_ in coarse
        )
        maps = (fine, *coarse, torch.cat([fine, *resized], dim=1))
        return dict(zip(self.levels, maps, strict=True))
