"""Seconds of a step of `rein_vfm` with and without stored prefixes, in turns.

    python -m benchmarks.prefix --crop 256 --repeats 10

A DINOv2 of the size of its published ViT-S, with random weights: no time depends on them. Forward,
backward and update of tokens and head; what is read by loader processes is not counted. Times are
medians, on a CPU those of the process itself.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import torch
import transformers
from torch import Tensor

from benchmarks.step_time.clock import wait
from stages.student.config import StudentConfig
from stages.student.rein_vfm import ReinBackbone
from stages.student.student import Student, build_student
from stages.train.adaptation.losses import segmentation_loss

VIT_S = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 518}
IMAGES = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
STUDENT = {
    **{"backbone": "rein_vfm", "norm_eps": None, "drop_path": 0.0},
    **{"head": "mlp", "head_channels": 256, "dropout": 0.1},
}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crop", type=int, default=512, help="px, a multiple of 32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=10)
    return parser.parse_args()


def build(folder: Path, block: int, asked: argparse.Namespace) -> Student:
    """Build a student whose tokens begin at a block."""
    rein = {"from_block": block, "tokens": 100, "rank": 16, "native_px": asked.crop}
    config = StudentConfig.model_validate({**STUDENT, "weights": str(folder), "rein": rein})
    return build_student(config, num_classes=19, seed=0).to(asked.device)


def main() -> None:
    """Print a row for a third and two thirds of the blocks."""
    asked = parse()
    torch.manual_seed(0)
    device = torch.device(asked.device)
    clock = process_time if asked.device == "cpu" else perf_counter
    images = torch.randn(asked.batch, 3, asked.crop, asked.crop, device=device)
    label = torch.randint(19, (asked.batch, asked.crop, asked.crop), device=device)
    print("| tokens from block | s uncached | s cached | saved | MB of tokens a view |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        transformers.Dinov2Model(transformers.Dinov2Config(**VIT_S)).save_pretrained(name)
        (Path(name) / "preprocessor_config.json").write_text(json.dumps(IMAGES))
        for block in (4, 8):
            student = build(Path(name), block, asked)
            assert isinstance(student.backbone, ReinBackbone)
            optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
            stored = torch.cat(student.backbone.begin(images), dim=1).transpose(1, 2)[..., None]
            arms: dict[str, Tensor | None] = {"uncached": None, "cached": stored.contiguous()}
            times: dict[str, list[float]] = {arm: [] for arm in arms}
            for _ in range(asked.repeats + 2):  # two to warm up
                for arm, begun in arms.items():
                    wait(device)
                    start = clock()
                    logits = student.decode(student.see(images, begun=begun))
                    assert isinstance(logits, Tensor)
                    segmentation_loss(logits, label, None).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    optimizer.zero_grad()
                    wait(device)
                    times[arm].append(clock() - start)
            plain, cached = (median(each[2:]) for each in times.values())
            size = stored[0].nbytes / 1e6
            print(
                f"| {block} | {plain:.3f} | {cached:.3f} | {1 - cached / plain:.0%} | {size:.1f} |"
            )


if __name__ == "__main__":
    main()
