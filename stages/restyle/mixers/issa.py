"""Mixing by ISSA's masked noise encoder, which `ssr restyle-fit` trains on the source."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.fields import BatchSize, DeviceName, Fraction, PathText, PositiveInt, Seed
from stages.restyle.mixers.mixer import Mixer
from store.errors import CheckpointError
from store.fingerprint import sha256_of_file

GENERATOR: Final = "generator.pt"
ENCODER: Final = "encoder.pt"


class Issa(Mixer):
    """Masked noise encoder (arXiv 2210.10175): noise maps of the content, latents of the style."""

    kind: Literal["issa"] = Field(description="Which mixer this is.")
    folder: PathText = Field(
        description="What `ssr restyle-fit` writes: `generator.pt` and `encoder.pt`."
    )
    side_px: Literal[32, 64, 128, 256] = Field(
        description="Images are squeezed to squares of this side, and stretched back when mixed: "
        "what is finer is lost."
    )
    channels: int = Field(
        ge=4,
        le=512,
        multiple_of=4,
        description="Of the generator's maps; halved with each doubling of the side above 64.",
    )
    latent: int = Field(ge=4, le=512, description="Length of a style vector.")
    mask: Fraction = Field(
        description="Share of the noise maps' 4x4 patches that training replaces by noise; "
        "published: 0.25."
    )
    batch_size: BatchSize = Field(
        description="Images per step; the encoder sees as many generated ones besides."
    )
    generator_steps: PositiveInt = Field(description="Steps of the generator.")
    generator_lr: Annotated[float, Field(gt=0, le=1)] = Field(
        description="Its learning rate, and its discriminator's."
    )
    encoder_steps: PositiveInt = Field(description="Steps of the encoder.")
    encoder_lr: Annotated[float, Field(gt=0, le=1)] = Field(
        description="Its learning rate, and ten times that of its discriminators."
    )
    checkpoint_every: PositiveInt = Field(description="Steps between checkpoints.")
    seed: Seed = Field(description="Seed of weights, batches, noise and masks.")
    device: DeviceName = Field(description="Where it is trained and mixes.")

    @property
    def path(self) -> Path:
        """Where the folder is."""
        return Path(self.folder).expanduser()

    @property
    def training(self) -> dict[str, Any]:
        """All keys that the trained weights depend on, in JSON's types."""
        return self.model_dump(mode="json", exclude={"folder", "checkpoint_every", "device"})

    def encoder(self) -> Path:
        """Return the file of the trained encoder.

        Raises:
            CheckpointError: There is none.
        """
        path = self.path / ENCODER
        if not path.is_file():
            raise CheckpointError(
                f"{path} is not there; train it with `ssr restyle-fit`, or set restyle.mixer.folder"
            )
        return path

    @property
    def identity(self) -> dict[str, Any]:
        """The training, and the hash of the encoder's file."""
        return {**self.training, "encoder": sha256_of_file(self.encoder())}

    def made(self, identity: Mapping[str, Any]) -> bool:
        """Trust the encoder's hash where `folder` has no encoder."""
        if (self.path / ENCODER).exists():
            return super().made(identity)
        return self.training == {k: v for k, v in identity.items() if k != "encoder"}

    def mix(self, content: NDArray[np.uint8], style: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Generate from the content's noise maps, unmasked, and the latents of the style.

        Raises:
            CheckpointError: The encoder is missing, unfinished, damaged or of other settings.
        """
        from stages.restyle.issa.swap import mix

        return mix(self, content, style)
