"""The part that all teachers' encoders share: a network that is run on batches of tiles."""

# B tiles, C channels, h w tokens

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from stages.embed.teachers.teacher import Precision
from store.errors import ConfigError


class TileEncoder:
    """A network that maps normalised tiles to tokens.

    Args:
        network: with its weights; it returns level -> (B, C, h, w) of tiles (B, 3, side, side).
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
        self.precision = precision
        self.side_px = side_px
        self.encoder = network.to(device).eval().requires_grad_(False)
        self._forward = torch.compile(network) if compiled else network

    def _features(self, batch: Tensor, levels: Sequence[str]) -> Mapping[str, Tensor]:
        features: Mapping[str, Tensor] = self._forward(batch)
        return features

    def encode(self, tiles: Tensor, levels: Sequence[str]) -> dict[str, Tensor]:
        """Encode and wait; see `Encoder.encode`."""
        return {level: part.cpu() for level, part in self.start(list(tiles), levels).items()}

    def start(self, tiles: Sequence[Tensor], levels: Sequence[str]) -> dict[str, Tensor]:
        """Begin to encode a batch of tiles; see `Encoder.start`. The CPU is done when this returns.

        Raises:
            ValueError: for tiles of another size, which the encoder might accept and get wrong.
            ConfigError: for more tiles than fit in the GPU's memory.
        """
        wanted = (3, self.side_px, self.side_px)
        for tile in tiles:
            if tuple(tile.shape) != wanted:
                raise ValueError(f"tiles of shape {tuple(tile.shape)} given, {wanted} needed")
        dtype = getattr(torch, self.precision)
        half = dtype != torch.float32
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=half):
                batch = torch.stack([tile.to(self.device) for tile in tiles])
                features = self._features(batch, levels)
                return {level: features[level].float() for level in levels}
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"{len(tiles)} tiles of {self.side_px} px are too many for the memory of "
                f"{self.device}; lower embed.batch_tiles"
            ) from error
