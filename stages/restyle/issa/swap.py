"""The trained encoder at work: what is where from one image, how it looks from another."""

from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.device import cpu_threads, pick_device
from stages.restyle.issa.encoder import Encoded, Encoder
from stages.restyle.issa.fit import ENCODER, FORMAT, as_input, as_pixels, squeezed
from stages.restyle.issa.generator import Generator
from stages.restyle.mixers.issa import Issa
from stages.weight_files import load_parts
from store.errors import CheckpointError
from store.fingerprint import sha256_of_file


def digest(config: Issa) -> str:
    """Return the SHA-256 of the encoder's file.

    Raises:
        CheckpointError: There is none.
    """
    return sha256_of_file(_require_file(config))


def mix(config: Issa, content: NDArray[np.uint8], style: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mix as `Swap.mix`; threads open the encoder once, and mix one image at a time.

    Raises:
        CheckpointError: As `Swap`.
    """
    with _ONE_AT_A_TIME:
        return _opened(config).mix(content, style)


class Swap:
    """Generator and averaged encoder of a folder.

    Raises:
        CheckpointError: The encoder is missing, unfinished, damaged or of other settings.
    """

    def __init__(self, config: Issa) -> None:
        path = _require_file(config)
        self._side = config.side_px
        self._device = pick_device(config.device, "restyle.mixer.device")
        self.generator = Generator(config.side_px, config.channels, config.latent)
        self.encoder = Encoder(self.generator, torch.zeros(config.latent), config.channels)
        parts = {"averaged": self.encoder, "frozen generator": self.generator}
        header = {"format": FORMAT, "training": config.training}
        cure = "its settings are not those of restyle.mixer: set them, or `folder`, accordingly"
        saved = load_parts(path, parts, header=header, device=self._device, cure=cure)
        if saved is None or saved["step"] < config.encoder_steps:
            raise CheckpointError(f"{path} is not finished; run `ssr restyle-fit` to go on with it")
        for network in (self.generator, self.encoder):
            network.to(self._device).eval().requires_grad_(False)

    @torch.inference_mode()
    def encode(self, image: NDArray[np.uint8]) -> Encoded:
        """Encode an image (H, W, 3)."""
        square = torch.from_numpy(squeezed(image, self._side)).permute(2, 0, 1)[None]
        encoded: Encoded = self.encoder(as_input(square).to(self._device))
        return encoded

    def mix(self, content: NDArray[np.uint8], style: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return RGB of the content's size (H, W, 3).

        Computes with one thread: last bits do not depend on cores.
        """
        with cpu_threads(1), torch.inference_mode():
            made = self.generator(self.encode(style).w, maps=self.encode(content).maps)
        return stretched(made, content.shape[:2])


_ONE_AT_A_TIME: Final = Lock()
_opened: Final = lru_cache(maxsize=1)(Swap)


def stretched(made: Tensor, size_px: tuple[int, ...]) -> NDArray[np.uint8]:
    """Resize a generated square (1, 3, S, S) to an image (H, W, 3)."""
    height, width = size_px
    square = np.ascontiguousarray(as_pixels(made)[0].permute(1, 2, 0).cpu().numpy())
    return np.asarray(cv2.resize(square, (width, height)), np.uint8)


def _require_file(config: Issa) -> Path:
    path = config.path / ENCODER
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not there; train it with `ssr restyle-fit`, or set restyle.mixer.folder"
        )
    return path
