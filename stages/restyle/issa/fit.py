"""Training of the generator, then of the encoder: each resumes bit for bit where it stopped.

Every draw derives from the seed and the step, so checkpoints hold no random state.
"""

# N images, B batch, S side of the image, D length of a latent

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from math import cos, isfinite, pi
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.device import pick_device
from stages.prepare.datasets.dataset import Progress
from stages.prepare.manifest import ImageRecord
from stages.prepare.pixels import read_raw
from stages.restyle.issa.encoder import Encoder, draw_mask, kept_pixels, masked
from stages.restyle.issa.generator import Discriminator, Generator, Maps
from stages.restyle.issa.losses import (
    PatchDiscriminator,
    Perceptual,
    encoder_terms,
    gradient_penalty,
    hinge,
)
from stages.restyle.mixers.issa import ENCODER, GENERATOR, Issa
from stages.weight_files import load_parts, save_parts
from store.atomic import make_folder
from store.errors import TrainingError
from store.fingerprint import fingerprint_of
from store.lease import writer_lock

FORMAT: Final = 1

_LAZY: Final = 16  # steps from one gradient penalty to the next
_SAME_STYLE: Final = 0.1  # share of generated images that one latent makes
_HALF_LIFE: Final = (10_000, 0.05)  # of averages: images, and at most this share of those so far
_ANNEALING: Final = (100 / 375, 250 / 375)  # published, as shares of steps; to a tenth of the rate


def squeezed(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize an image (H, W, 3) to a square of a side."""
    resized = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.uint8)


def as_input(images: Tensor) -> Tensor:
    """Scale bytes to -1 to 1."""
    return images.float() / 127.5 - 1


def as_pixels(made: Tensor) -> Tensor:
    """Round -1 to 1 to bytes; the inverse of `as_input`."""
    return ((made + 1) * 127.5).round().clamp(0, 255).byte()


class Fit(ABC):
    """A training on images (N, 3, S, S), uint8: its parts, and a step.

    `stream` tells which random numbers of the seed are its own.
    """

    steps: int
    parts: dict[str, nn.Module | torch.optim.Optimizer]

    def __init__(self, config: Issa, images: Tensor, stream: int) -> None:
        self.config, self._images, self._stream = config, images, stream
        self.device = pick_device(config.device, "restyle.mixer.device")

    @abstractmethod
    def step(self, number: int) -> dict[str, Tensor]:
        """Update once; return the losses."""

    def random(self, *more: int) -> torch.Generator:
        """Return the random numbers of a step, or of what happens before the first."""
        entropy = np.random.SeedSequence([self.config.seed, self._stream, *more])
        return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))

    def real(self, rng: torch.Generator) -> Tensor:
        """Draw a batch of images (B, 3, S, S), half of them mirrored."""
        count = self.config.batch_size
        batch = as_input(self._images[torch.randint(len(self._images), (count,), generator=rng)])
        mirrored = torch.rand(count, 1, 1, 1, generator=rng) < 0.5
        return torch.where(mirrored, batch.flip(3), batch).to(self.device)

    def noise(self, rng: torch.Generator, *shape: int) -> Tensor:
        """Draw N(0, 1)."""
        return torch.randn(*shape, generator=rng).to(self.device)

    def average(self, averaged: nn.Module, network: nn.Module, step: int) -> None:
        """Move an average towards its network; statistics of batches are copied."""
        batch, (longest, share) = self.config.batch_size, _HALF_LIFE
        kept = 0.5 ** (batch / min(longest, share * batch * (step + 1)))
        with torch.no_grad():
            for old, new in zip(averaged.parameters(), network.parameters(), strict=True):
                old.lerp_(new, 1 - kept)
            for kept_as, found in zip(averaged.buffers(), network.buffers(), strict=True):
                kept_as.copy_(found)


class GeneratorFit(Fit):
    """Generator against discriminator: logistic losses, R1 now and then, mixed styles.

    Differs from StyleGAN2-ADA: mirroring is the only augmentation, so a few hundred images are
    soon known by heart.
    """

    def __init__(self, config: Issa, images: Tensor) -> None:
        super().__init__(config, images, 0)
        self.steps, side, channels = config.generator_steps, config.side_px, config.channels
        with _seeded(self.random()):
            self.generator = Generator(side, channels, config.latent).to(self.device)
            self.discriminator = Discriminator(side, channels).to(self.device)
        self.averaged = deepcopy(self.generator).requires_grad_(False)
        self._gamma = 0.0002 * side**2 / config.batch_size  # as NVIDIA's automatic settings
        rate, betas = config.generator_lr, (0.0, 0.99)
        self._of_generator = torch.optim.Adam(self.generator.parameters(), rate, betas, 1e-8)
        judge = self.discriminator.parameters()
        self._of_discriminator = torch.optim.Adam(judge, rate, betas, 1e-8)
        self.parts = {
            "averaged": self.averaged,
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator optimizer": self._of_generator,
            "discriminator optimizer": self._of_discriminator,
        }

    def step(self, number: int) -> dict[str, Tensor]:
        """Update the generator, then the discriminator."""
        rng = self.random(number)
        self.discriminator.requires_grad_(False)
        made = self._made(rng)
        loss = F.softplus(-self.discriminator(made)).mean()
        _update(self._of_generator, loss)
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            made = self._made(rng)
        real = self.real(rng).requires_grad_(number % _LAZY == 0)
        scores = self.discriminator(real)
        separation = F.softplus(self.discriminator(made)).mean() + F.softplus(-scores).mean()
        penalty = _penalty(scores, real, self._gamma)
        _update(self._of_discriminator, separation + penalty)
        self.average(self.averaged, self.generator, number)
        return {"generator": loss, "discriminator": separation, "penalty": penalty}

    def _made(self, rng: torch.Generator) -> Tensor:
        """Generate a batch, most of it in two styles: one of coarse layers, one of fine ones."""
        generator, count = self.generator, self.config.batch_size
        one, other = (
            generator.repeated(generator.style(self.noise(rng, count, generator.latent)))
            for _ in range(2)
        )
        ends = torch.randint(1, generator.latents, (count, 1, 1), generator=rng)
        ends[torch.rand(count, generator=rng) < _SAME_STYLE] = generator.latents
        layers = torch.arange(generator.latents)[None, :, None]
        made: Tensor = generator(
            torch.where((layers < ends).to(self.device), one, other), noise=rng
        )
        return made


class EncoderFit(Fit):
    """Encoder of a frozen generator, against discriminators of patches.

    Differs from ISSA: RAdam without Ranger's lookahead and centred gradients; generated images are
    drawn in each step; real images are not blurred; the learning rate is annealed at the published
    shares of the run, whatever its length.
    """

    def __init__(
        self, config: Issa, images: Tensor, generator: Generator, perceptual: Perceptual
    ) -> None:
        super().__init__(config, images, 1)
        self.steps, channels = config.encoder_steps, config.channels
        self.generator = generator.to(self.device).eval().requires_grad_(False)
        with _seeded(self.random()), torch.no_grad():
            mean = generator.style(self.noise(self.random(), 4096, config.latent)).mean(0)
            self.encoder = Encoder(generator, mean, channels).to(self.device)
            self.discriminator = PatchDiscriminator(max(8, channels // 2)).to(self.device)
        self.averaged = deepcopy(self.encoder).requires_grad_(False)
        self._of_encoder = torch.optim.RAdam(
            self.encoder.parameters(), config.encoder_lr, (0.95, 0.999), 1e-5
        )
        self._of_discriminator = torch.optim.Adam(
            self.discriminator.parameters(), config.encoder_lr / 10, (0.0, 0.99), 1e-8
        )
        self.perceptual = perceptual.to(self.device)
        self.parts = {
            "averaged": self.averaged,
            "encoder": self.encoder,
            "discriminator": self.discriminator,
            "encoder optimizer": self._of_encoder,
            "discriminator optimizer": self._of_discriminator,
            "frozen generator": self.generator,
        }

    def reconstruct(self, w: Tensor, maps: Maps) -> Tensor:
        """Generate images (2B, 3, S, S) from latents (2B, L, D) and noise maps."""
        made: Tensor = self.generator(w, maps=maps)
        return made

    def step(self, number: int) -> dict[str, Tensor]:
        """Update the encoder, then the discriminators."""
        rng, count, generator = self.random(number), self.config.batch_size, self.generator
        for group in self._of_encoder.param_groups:
            group["lr"] = self.config.encoder_lr * annealed(number / self.steps)
        real = self.real(rng)
        with torch.no_grad():
            known = generator.repeated(generator.style(self.noise(rng, count, generator.latent)))
            images = torch.cat([real, generator(known)])
        encoded = self.encoder(images)
        first, second = encoded.maps
        one, two = (
            draw_mask(2 * count, first.shape[-1], self.config.mask, rng).to(self.device)
            for _ in range(2)
        )
        first = masked(first, one, self.noise(rng, *first.shape))
        second = masked(second, two, self.noise(rng, *second.shape))
        made = self.reconstruct(encoded.w, (first, second))
        self.discriminator.requires_grad_(False)
        remade = self.discriminator(made[:count])  # before the real ones: its norms are iterated
        terms = encoder_terms(
            images,
            made,
            encoded,
            known=known,
            kept=kept_pixels((one, two)),
            distances=self.perceptual(images, made),
            found=(self.discriminator(real), remade),
            seen=2 * count * number,
        )
        _update(self._of_encoder, torch.stack([*terms.values()]).sum())
        self.discriminator.requires_grad_(True)
        real.requires_grad_(number % _LAZY == 0)
        found = self.discriminator(real)
        separation = hinge(found, self.discriminator(made[:count].detach()))
        scores = torch.cat([scale[-1].flatten() for scale in found])
        penalty = _penalty(scores, real, 0.1)
        _update(self._of_discriminator, separation + penalty)
        self.average(self.averaged, self.encoder, number)
        return {**terms, "discriminator": separation, "penalty": penalty}


def annealed(done: float) -> float:
    """Return the factor of the learning rate after a share of the steps: 1, a cosine, a tenth."""
    start, end = _ANNEALING
    part = min(1.0, max(0.0, (done - start) / (end - start)))
    return 0.1 + 0.9 * (1 + cos(pi * part)) / 2


def fit(training: Fit, path: Path, *, header: Mapping[str, object], progress: Progress) -> None:
    """Train to the last step, from the last checkpoint on; a finished training is left as it is.

    `header` is all that determines it; its checkpoint goes to `path`.

    Raises:
        CheckpointError: The checkpoint is of another training, or damaged.
        TrainingError: A loss is not finite.
    """
    header = {"format": FORMAT, **header}
    cure = "give another restyle.mixer.folder, or remove the file to train anew"
    saved = load_parts(path, training.parts, header=header, device=training.device, cure=cure)
    begin = 0 if saved is None else int(saved["step"])
    make_folder(path.parent)
    for number in range(begin, training.steps):
        losses = {name: float(loss.detach()) for name, loss in training.step(number).items()}
        if bad := [name for name, loss in losses.items() if not isfinite(loss)]:
            raise TrainingError(
                f"step {number} of the {path.stem}: the loss {bad[0]} is not finite; lower "
                f"restyle.mixer.{path.stem}_lr and remove {path}"
            )
        done = number + 1
        if done % training.config.checkpoint_every == 0 or done == training.steps:
            save_parts(path, training.parts, {**header, "step": done})
        said = ", ".join(f"{name} {loss:.3g}" for name, loss in losses.items())
        progress(done, training.steps, f"{path.stem}: {said}")


def run(config: Issa, *, records: Sequence[ImageRecord], root: Path, progress: Progress) -> None:
    """Train the generator, then the encoder, on images of the manifest.

    Raises:
        DataError: An image is missing or has changed.
        StoreBusyError: Another process trains into the folder.
        CheckpointError: A checkpoint is of another training, or damaged, or a package of weights
            is not installed.
        TrainingError: A loss is not finite.
    """
    perceptual = Perceptual()  # may be missing, which is to be said first
    about = {"training": config.training, "images": fingerprint_of([r.content for r in records])}
    shared = {**about, "training": of_generator(config)}
    make_folder(config.path)
    with writer_lock(config.path, f"the encoder in {config.path}"):
        side = config.side_px
        images = torch.empty(len(records), 3, side, side, dtype=torch.uint8)
        for number, record in enumerate(records):
            square = squeezed(read_raw(record, root), side)
            images[number] = torch.from_numpy(square).permute(2, 0, 1)
            progress(number + 1, len(records), "reading images")
        generator = GeneratorFit(config, images)
        fit(generator, config.path / GENERATOR, header=shared, progress=progress)
        encoder = EncoderFit(config, images, generator.averaged, perceptual)
        fit(encoder, config.path / ENCODER, header=about, progress=progress)


def of_generator(config: Issa) -> dict[str, object]:
    """Return the keys that the generator's weights depend on, in JSON's types."""
    own = {"mask", "encoder_steps", "encoder_lr"}
    return {key: value for key, value in config.training.items() if key not in own}


@contextmanager
def _seeded(rng: torch.Generator) -> Iterator[None]:
    """Let the block draw weights from the seed of a generator."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(rng.initial_seed())
        yield


def _penalty(scores: Tensor, real: Tensor, gamma: float) -> Tensor:
    """Return R1 for the steps until the next; 0 for images without gradient."""
    if not real.requires_grad:
        return torch.zeros(())
    return gradient_penalty(scores, real) * gamma / 2 * _LAZY


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
