"""Networks of transformers on tiles."""

# B tiles, C channels, h w tokens

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from stages.embed.teachers.encoder import TileEncoder
from stages.embed.teachers.hf_models import Facts, read_config
from stages.embed.teachers.teacher import Precision
from stages.renormalise import Renormalise
from stages.weight_files import Differences
from store.errors import CheckpointError


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
    family, config = facts.family, read_config(folder)
    if family.config:
        config = getattr(transformers, family.config)(vision_config=config.vision_config)
    transformers.utils.logging.set_verbosity_error()  # its bar and report: both are checked here
    transformers.utils.logging.disable_progress_bar()
    try:
        model, info = getattr(transformers, family.model).from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # of safetensors, JSON and transformers
        raise CheckpointError(
            f"{name}: its weights cannot be loaded ({type(error).__name__}); get the file again"
        ) from error
    misshapen = (str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"])
    faults = Differences(
        tuple(sorted(info["missing_keys"])),
        tuple(sorted(info["unexpected_keys"])),
        tuple(sorted(misshapen)),
    ).summary()
    if faults:
        raise CheckpointError(f"{name}: its weights do not fit {family.model} ({faults})")
    encoder = model.get_submodule(family.part) if family.part else model
    return HfNetwork(encoder, facts, blocks, norm=norm)
