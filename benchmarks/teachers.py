"""Cost of an image with each teacher: CPU seconds on one thread, and bytes in the store.

    python -m benchmarks.teachers CAMVID

The first images by day of the preset `camvid-day-to-dusk`, all levels of each teacher, teachers in
turns; medians. A run of one image is subtracted, and with it what loading the network takes. SAM
and DINOv2 have random weights here, which cost the same.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import process_time
from typing import Final

from transformers import BitImageProcessorPil, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from benchmarks.runs import positive
from pipeline.init import write_preset
from pipeline.params import Params, load_params
from pipeline.project import Project
from stages.device import cpu_threads
from stages.prepare import stage as prepare
from stages.prepare.manifest import Manifest

PRESET: Final = "camvid-day-to-dusk"
DRAWN: Final = Path(__file__).parents[1] / "examples/drawn/teacher.pth"
LITE: Final = (
    "{{kind: efficientnet_lite, architecture: lite{}, weights: imagenet, seed: 0, "
    "tile_px: 512, input_scale: 1}}"
)
SAM: Final = "{{kind: sam, architecture: {}, weights: {}, seed: 0}}"
DINO: Final = "{{kind: hf, weights: {}, revision: null, tile_px: 518, taps: [last], norm: true}}"
SSR: Final = ("stride8", "stride16", "stride32")


def main(camvid: Path, images: int, repeats: int) -> None:
    """Print one line per teacher."""
    with tempfile.TemporaryDirectory() as folder, cpu_threads(1):
        place = Path(folder)
        _save_dino(place / "dinov2")
        roots = dict.fromkeys(("source", "target"), str(camvid.resolve()))
        write_preset(PRESET, place / "params.yaml", arm="source-only", roots=roots)
        teachers = {
            "SAM tiny, of the drawn world": (SAM.format("tiny", DRAWN), ("stride8",)),
            **{f"EfficientNet-Lite{n}": (LITE.format(n), (*SSR, "hyper")) for n in range(3)},
            "DINOv2-S with registers": (DINO.format(place / "dinov2"), SSR),
            "SAM ViT-B": (SAM.format("vit_b", "random"), SSR),
        }
        params = {name: _params(place, *teacher) for name, teacher in teachers.items()}
        manifest = _listed(next(iter(params.values())), place)
        seconds: dict[str, list[float]] = {name: [] for name in teachers}
        size_mb: dict[str, float] = {}
        for turn in range(repeats):
            for name, each in params.items():
                stores = place / str(turn) / name
                once, least_mb = _embedded(each, manifest, 1, stores / "one")
                more, most_mb = _embedded(each, manifest, 1 + images, stores / "all")
                seconds[name].append((more - once) / images)
                size_mb[name] = (most_mb - least_mb) / images
    print("| teacher | levels | CPU s per image | MB per image |")
    print("|---|---|---|---|")
    for name, (_, levels) in teachers.items():
        row = (name, ", ".join(levels), f"{median(seconds[name]):.3g}", f"{size_mb[name]:.3g}")
        print(f"| {' | '.join(row)} |")


def _params(place: Path, teacher: str, levels: Sequence[str]) -> Params:
    values = (f"embed.teacher={teacher}", f"embed.levels=[{', '.join(levels)}]")
    rest = ("embed.domains=[source]", "embed.device=cpu", "embed.threads=1", "store.codec=float16")
    return load_params(place / "params.yaml", (*values, *rest))


def _listed(params: Params, place: Path) -> Manifest:
    path = place / "manifest.parquet"
    prepare.run(params.prepare, out=path, cache=place / "scan.parquet", progress=_silent)
    return Manifest.read(path)


def _embedded(params: Params, manifest: Manifest, images: int, folder: Path) -> tuple[float, float]:
    """Embed the first images by day; return CPU seconds, and MB of what was written."""
    few = replace(manifest, records=manifest.select(domain="source", split="train")[:images])
    store = params.store.model_copy(update={"url": str(folder), "shard_images": 1})
    params = params.model_copy(update={"store": store})
    start = process_time()
    Project(params, folder.with_suffix(".data")).embed(_silent, images=few)
    seconds = process_time() - start
    return seconds, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6


def _save_dino(folder: Path) -> None:
    config = Dinov2WithRegistersConfig(
        hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14
    )
    Dinov2WithRegistersModel(config).save_pretrained(folder)
    BitImageProcessorPil().save_pretrained(folder)


def _silent(*_: object) -> None:
    """Say nothing."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("camvid", type=Path, help="folder with day_train")
    parser.add_argument("--images", type=positive, default=4, help="beside the first (default: 4)")
    parser.add_argument("--repeats", type=positive, default=3, help="turns (default: 3)")
    options = parser.parse_args()
    main(options.camvid, options.images, options.repeats)
