"""Networks of transformers on tiles."""

# B tiles, C channels, h w tokens

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.embed.teachers.encoder import TileEncoder
from stages.embed.teachers.teacher import Precision
from stages.hf_models import Facts, load_model
from stages.renormalise import Renormalise


class HfNetwork(nn.Module):
    """A model from tiles normalised as the student's to feature maps.

    Args:
        model: of a family.
        facts: of the model.
        blocks: of a ViT, those whose tokens are maps.
        norm: whether the ViT's last LayerNorm is applied to them.
    """

    def __init__(
        self, model: nn.Module, facts: Facts, blocks: Sequence[int], *, norm: bool
    ) -> None:
        super().__init__()
        self.renormalise = Renormalise(facts.mean, facts.std)
        self.model, self.facts, self.blocks = model, facts, tuple(blocks)
        self.norm = model.get_submodule(facts.family.norm) if norm else nn.Identity()

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        """Return the maps (B, C, h, w) of tiles (B, 3, side, side)."""
        family = self.facts.family
        outputs = self.model(self.renormalise(tiles), output_hidden_states=True)
        if family.strides:
            return tuple(getattr(outputs, family.maps)[-len(family.strides) :])
        side = tiles.shape[-1] // self.facts.patch_px
        return tuple(
            # the first hidden state is what enters block 0; class and registers come first
            self.norm(outputs.hidden_states[block + 1])[:, self.facts.prefix :]
            .transpose(1, 2)
            .unflatten(2, (side, side))
            for block in self.blocks
        )


class HfEncoder(TileEncoder):
    """A model on tiles; one pass makes all levels of an input scale.

    Args:
        network: with its weights.
        maps: level -> its place among the maps of the network.
        side_px: as in `TileEncoder`.
        device: likewise.
        precision: likewise.
        compiled: likewise.
    """

    def __init__(
        self,
        network: HfNetwork,
        maps: Mapping[str, int],
        side_px: int,
        device: torch.device,
        precision: Precision,
        *,
        compiled: bool = False,
    ) -> None:
        super().__init__(network, side_px, device, precision, compiled=compiled)
        self._maps = maps

    def _features(self, batch: Tensor, levels: Sequence[str]) -> dict[str, Tensor]:
        found = self._forward(batch)
        return {level: found[self._maps[level]] for level in levels}


def load_network(
    folder: Path, facts: Facts, blocks: Sequence[int], *, norm: bool, name: str
) -> HfNetwork:
    """Load a model from a folder, in float32.

    Args:
        folder: as `save_pretrained` leaves it.
        facts: of the model.
        blocks: as in `HfNetwork`.
        norm: likewise.
        name: of the model, for messages.

    Raises:
        CheckpointError: for weights that are damaged or do not fit.
    """
    return HfNetwork(load_model(folder, facts, name=name), facts, blocks, norm=norm)
