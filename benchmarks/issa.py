"""Whether ISSA's masked noise encoder works at a size that a CPU trains: gates G1 to G3.

    python -m benchmarks.issa OUT

In the drawn world: a source of 400 streets by day and 400 in the wide style trains one generator
and three encoders: with 25 % of the patches masked, with none, and with latents alone, the control.
Measured on other streets: G1, the perceptual distance of reconstructions; G2, the mean IoU of a
student of the day on streets by day that were mixed with wide looks; G3, the share of these pairs
in which the mix is closer to its style than to its content. Goes on where it was stopped.
A picture of each encoder shows content, reconstruction, style and mix, a row each.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from examples.drawn.world import draw
from examples.drawn.world.style import Style
from stages.evaluate.predict import open_model
from stages.restyle.issa.fit import (
    EncoderFit,
    GeneratorFit,
    as_input,
    as_pixels,
    fit,
    of_generator,
    squeezed,
)
from stages.restyle.issa.generator import Generator, Maps
from stages.restyle.issa.losses import Perceptual
from stages.restyle.mixers.issa import ENCODER, GENERATOR, Issa
from stages.student.inference import predict_images
from stages.student.metrics import ConfusionMatrix

SIZE_PX: Final = 128
FIRST_VAL: Final = 1_000_000
START: Final = Path(__file__).parents[1] / "examples/drawn/start"

Pixels = NDArray[np.uint8]
Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
ARMS: Final = {"mask 25 %": (0.25, True), "mask 0 %": (0.0, True), "latents alone": (0.0, False)}
"""Name of an encoder -> what it masks, and whether its noise maps are used."""
COLUMNS: Final = (
    *("G1 distance", "without its maps", "G2 mIoU reconstructed", "mixed", "share kept"),
    *("G3 nearer the style in colour", "in Gram matrices"),
)


def main(out: Path, *, images: int, val: int, side: int, steps: tuple[int, int]) -> None:
    """Train, measure, and print the table."""
    torch.set_num_threads(1)
    config = _config(out, side=side, steps=steps)
    day, wide = ([d for d, _ in _drawn(style, 0, images)] for style in ("day", "wide"))
    source = _squares([*day, *wide], side)
    trained = GeneratorFit(config, source)
    fit(trained, out / GENERATOR, header=of_generator(config), progress=_say)
    contents, styles = _drawn("day", FIRST_VAL, val), _drawn("wide", FIRST_VAL + val, val)
    seen = _squares([image for image, _ in contents], side)
    looks = _squares([image for image, _ in styles], side)
    labels = [label for _, label in contents]
    print(f"mean IoU by day: {_miou([i for i, _ in contents], labels):.1f}; ", end="")
    print(f"squeezed to {side} px: {_miou(_stretched(seen), labels):.1f}\n")
    print("| encoder | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (1 + len(COLUMNS)))
    for name, (mask, maps) in ARMS.items():
        made = _trained(config, source, trained.averaged, out / name, mask=mask, maps=maps)
        _measure(name, made, trained.averaged, seen, looks, labels, maps=maps, out=out)


def _measure(
    name: str,
    encoder: torch.nn.Module,
    generator: Generator,
    seen: Tensor,
    looks: Tensor,
    labels: Sequence[Pixels],
    *,
    maps: bool,
    out: Path,
) -> None:
    """Print the row of an encoder."""
    perceptual = Perceptual()
    with torch.inference_mode():
        content, style = encoder(as_input(seen)), encoder(as_input(looks))
        again = generator(content.w, maps=content.maps if maps else None)
        bare = generator(content.w)
        mixed = generator(style.w, maps=content.maps if maps else None)
        far, bare_far = (float(perceptual(as_input(seen), x).mean()) for x in (again, bare))
        reached = [
            float(
                (_far(mixed, as_input(looks), of) < _far(mixed, as_input(seen), of)).float().mean()
            )
            for of in (_colors, lambda x: _gram(perceptual, x))
        ]
    whole, part = (_miou(_stretched(as_pixels(x)), labels) for x in (again, mixed))
    row = (f"{far:.3f}", f"{bare_far:.3f}", f"{whole:.1f}", f"{part:.1f}", f"{part / whole:.0%}")
    print(f"| {name} | {' | '.join(row)} | {' | '.join(f'{r:.0%}' for r in reached)} |", flush=True)
    rows = [torch.cat(list(x[:8]), 2) for x in (as_input(seen), again, as_input(looks), mixed)]
    sheet = as_pixels(torch.cat(rows, 1)[None])[0].permute(1, 2, 0).numpy()
    Image.fromarray(sheet).resize((1024, 512), 0).save(out / f"{name.replace(' ', '-')}.png")


class _LatentsAlone(EncoderFit):
    def reconstruct(self, w: Tensor, maps: Maps) -> Tensor:
        """Generate without noise maps."""
        made: Tensor = self.generator(w)
        return made


def _trained(
    config: Issa, source: Tensor, generator: Generator, folder: Path, *, mask: float, maps: bool
) -> torch.nn.Module:
    config = config.model_copy(update={"mask": mask})
    training = (EncoderFit if maps else _LatentsAlone)(config, source, generator, Perceptual())
    fit(training, folder / ENCODER, header={**config.training, "maps": maps}, progress=_say)
    return training.averaged.eval()


def _config(out: Path, *, side: int, steps: tuple[int, int]) -> Issa:
    return Issa.model_validate(
        {
            **{"kind": "issa", "folder": str(out), "side_px": side, "channels": 32, "latent": 64},
            **{"mask": 0.25, "batch_size": 8, "generator_steps": steps[0], "generator_lr": 0.0025},
            **{"encoder_steps": steps[1], "encoder_lr": 0.003, "checkpoint_every": 100},
            **{"seed": 0, "device": "cpu"},
        }
    )


def _drawn(style: Style, first: int, count: int) -> list[tuple[Pixels, Pixels]]:
    size = (SIZE_PX, SIZE_PX)
    return [draw(seed=1, index=first + i, style=style, size_px=size) for i in range(count)]


def _squares(images: Sequence[Pixels], side: int) -> Tensor:
    return torch.from_numpy(np.stack([squeezed(x, side) for x in images])).permute(0, 3, 1, 2)


def _stretched(images: Tensor) -> list[Pixels]:
    """Resize squares (N, 3, S, S) of bytes to the size of the labels."""
    squares = images.permute(0, 2, 3, 1).contiguous().numpy()
    return [np.asarray(cv2.resize(x, (SIZE_PX, SIZE_PX)), np.uint8) for x in squares]


def _miou(images: Sequence[Pixels], labels: Sequence[Pixels]) -> float:
    """Return the mean IoU of the shipped student of the day, in percent."""
    model = open_model(START)
    size, found = (SIZE_PX, SIZE_PX), ConfusionMatrix(len(model.classes))
    for image, label in zip(images, labels, strict=True):
        seen = predict_images(model.network, [image], size, size, size, device=torch.device("cpu"))
        found.update(seen[0], label)
    return 100 * found.mean_iou()


def _colors(images: Tensor) -> Tensor:
    """Describe images by mean and spread of their channels: (N, 6)."""
    return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


def _gram(perceptual: Perceptual, images: Tensor) -> Tensor:
    """Describe images by the Gram matrices of their features, each of unit length: (N, ...)."""
    found = []
    for maps in perceptual.maps(images):
        flat = maps.flatten(2)
        grams = (flat @ flat.mT / flat.shape[2]).flatten(1)
        found.append(grams / grams.norm(dim=1).mean())
    return torch.cat(found, 1)


def _far(one: Tensor, other: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    distance: Tensor = (of(one) - of(other)).norm(dim=1)
    return distance


def _say(done: int, total: int, what: str) -> None:
    if done % 50 == 0:
        print(f"{done}/{total} {what}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder of checkpoints and pictures")
    parser.add_argument("--images", type=int, default=400, help="of each half (default: 400)")
    parser.add_argument("--val", type=int, default=40, help="pairs measured (default: 40)")
    parser.add_argument("--side", type=int, default=64, help="of the squares (default: 64)")
    parser.add_argument("--steps", type=int, nargs=2, default=(1200, 600), help="of both networks")
    options = parser.parse_args()
    main(
        options.out,
        images=options.images,
        val=options.val,
        side=options.side,
        steps=tuple(options.steps),
    )
