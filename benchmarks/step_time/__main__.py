"""Seconds of one training step, arm by arm: what SSR costs from the store and with SAM in the loop.

    python -m benchmarks.step_time --student mit_b5 --sam vit_b --crop 512 --repeats 10

a   DAFormer, no regulariser; `a mic` with masked image consistency
b   SSR from the store; `b mic` with masked image consistency
    `hrda` after a or b: HRDA, its detail crop half as wide; published with twice DAFormer's --crop
c   SSR with SAM in the loop as the official code has it: its encoder, float32, on the source crop
    and on the mixed image; `c fused` has our encoder, in the precision of the student
d   as b, features already in memory
p   DAFormer's step ported line by line (ported_step.py), float32

All arms have the same student, images and random choices, and take turns in every round, backwards
in every other one, so that whatever else the machine does hits them alike; times are medians.
`data` is the part of it in which samples are read; with --workers 0 nothing of that is hidden.
Peak memory is that of a fresh process for each arm: the GPU's allocations, or on the CPU (Linux)
the resident set with interpreter, libraries and data. TFLOP are counted from tables
(stages/train/models.py, pipeline/plan.py), a multiplication and an addition as two; HRDA's are not
counted. The goals:
b <= 1.03 d, p >= 1.5 a. SAM's weights are random: no time depends on them.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.step_time.agreement import port_error
from benchmarks.step_time.arms import Arm, build_arm, device_of
from benchmarks.step_time.clock import wait
from benchmarks.step_time.data import draw_data
from benchmarks.step_time.memory import measure_memory
from benchmarks.step_time.parts import measure_parts
from benchmarks.step_time.setting import ARMS, Setting
from benchmarks.step_time.table import show_arms, show_parts, show_ratios
from stages.device import cpu_threads
from stages.embed.teachers.sam_sizes import ARCHITECTURES
from stages.student.mit import BACKBONES


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--student", choices=sorted(BACKBONES), default="mit_b5")
    parser.add_argument("--sam", choices=sorted(ARCHITECTURES), default="vit_b")
    parser.add_argument("--crop", type=int, default=512, help="px, a multiple of 32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=None, help="cores used on the CPU")
    parser.add_argument("--workers", type=int, default=0, help="loader processes of each arm")
    parser.add_argument("--profile", action="store_true", help="as many rounds again, by part")
    parser.add_argument("--no-memory", action="store_true", help="start no process for each arm")
    return parser.parse_args()


def take_turns(arms: Mapping[str, Arm], device: torch.device, warmup: int, repeats: int) -> None:
    """Run all arms round by round, and note the seconds of those after the warm-up."""
    for iteration in range(warmup + repeats):
        order = list(arms.values())
        for arm in order if iteration % 2 == 0 else reversed(order):
            wait(device)
            started = perf_counter()
            data_seconds = arm.step(iteration)
            wait(device)
            if iteration >= warmup:
                arm.seconds.append(perf_counter() - started)
                arm.data_seconds.append(data_seconds)


def measure(options: argparse.Namespace, setting: Setting, folder: Path) -> None:
    """Measure and print."""
    device, names = device_of(setting), list(dict.fromkeys(options.arms))
    draw_data(folder, setting)
    memory = {}
    if not options.no_memory:
        memory = {name: measure_memory(name, folder, setting) for name in names}
    if "p" in names:
        print(f"The port's gradients are {port_error(folder, setting):.1e} from ours\n")
    arms = {name: build_arm(name, folder, setting) for name in names}
    take_turns(arms, device, options.warmup, options.repeats)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(
        f"{setting.student}, SAM {setting.sam}, {setting.crop} px, batch {setting.batch}, "
        f"{setting.precision}, {where}, {torch.get_num_threads()} CPU threads, "
        f"{options.repeats} rounds\n"
    )
    show_arms(arms, memory, setting)
    show_ratios(arms)
    if options.profile:
        done = options.warmup + options.repeats
        rounds = range(done, done + options.repeats)
        show_parts({name: measure_parts(arm, device, rounds) for name, arm in arms.items()})


def main() -> None:
    """Run the benchmark in a temporary folder."""
    options = parse()
    setting = Setting(**{one.name: getattr(options, one.name) for one in fields(Setting)})
    with tempfile.TemporaryDirectory() as folder, cpu_threads(options.threads):
        measure(options, setting, Path(folder))


if __name__ == "__main__":
    main()
