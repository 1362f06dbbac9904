"""The trained encoder at work: what is where from one image, how it looks from another."""

from functools import lru_cache
from threading import Lock
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from stages.device import cpu_threads, pick_device
from stages.restyle.issa.encoder import Encoded, Encoder
from stages.restyle.issa.fit import FORMAT, as_input, as_pixels, squeezed
from stages.restyle.issa.generator import Generator
from stages.restyle.mixers.issa import Issa
from stages.weight_files import load_parts
from store.errors import CheckpointError

_ONE_AT_A_TIME: Final = Lock()


def mix(config: Issa, content: NDArray[np.uint8], style: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return RGB of the content's size (H, W, 3).

    Threads open the encoder once, and mix one image at a time. It computes with one thread: last
    bits do not depend on cores.

    Raises:
        CheckpointError: As `opened`.
    """

    def encode(image: NDArray[np.uint8]) -> Encoded:
        square = torch.from_numpy(squeezed(image, generator.side)).permute(2, 0, 1)[None]
        encoded: Encoded = encoder(as_input(square).to(encoder.mean.device))
        return encoded

    with _ONE_AT_A_TIME, cpu_threads(1), torch.inference_mode():
        generator, encoder = opened(config)
        made = generator(encode(style).w, maps=encode(content).maps)  # (1, 3, S, S)
    square = np.ascontiguousarray(as_pixels(made)[0].permute(1, 2, 0).cpu().numpy())
    height, width, _ = content.shape
    return np.asarray(cv2.resize(square, (width, height)), np.uint8)


@lru_cache(maxsize=1)
def opened(config: Issa) -> tuple[Generator, Encoder]:
    """Load the generator and the averaged encoder.

    Raises:
        CheckpointError: The encoder is missing, unfinished, damaged or of other settings.
    """
    device = pick_device(config.device, "restyle.mixer.device")
    generator = Generator(config.side_px, config.channels, config.latent)
    encoder = Encoder(generator, torch.zeros(config.latent), config.channels)
    path = config.encoder()
    saved = load_parts(
        path,
        {"averaged": encoder, "frozen generator": generator},
        header={"format": FORMAT, "training": config.training},
        device=device,
        cure="its settings are not those of restyle.mixer: set them, or `folder`, accordingly",
    )
    if saved is None or saved["step"] < config.encoder_steps:
        raise CheckpointError(f"{path} is not finished; run `ssr restyle-fit` to go on with it")
    for network in (generator, encoder):
        network.to(device).eval().requires_grad_(False)
    return generator, encoder
