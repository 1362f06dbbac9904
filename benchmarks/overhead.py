"""Count the operators of a training step, and time what the host spends on them.

    python -m benchmarks.overhead

A MiT-B5 with DAFormer's head at 2 + 2 images of 64 px, with as many layers as published, but an
eighth as wide or less: what a step takes is what it takes to launch its operators. Operators are
those that compute or copy, as the CPU is asked for them, without views and allocations; a `foreach`
over all weights is one, as on a GPU. The update of the weights is counted too. Times are the least
of all steps, in CPU time, the arms in turns.
"""

# ruff: noqa: ANN401

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any, Final
from unittest.mock import patch

from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.step_time import arms as step_arms
from benchmarks.step_time.arms import Arm, build_arm
from benchmarks.step_time.data import draw_data
from benchmarks.step_time.setting import Setting, configure
from stages.device import cpu_threads
from stages.student.mit import BACKBONES
from stages.train.config import TrainConfig

NARROW: Final = replace(BACKBONES["mit_b5"], widths=(8, 16, 40, 64))
SETTING: Final = Setting(
    "mit_b5", "vit_b", 64, 2, "cpu", "float32", False, False, threads=1, workers=0
)
COPIES: Final = ("_to_copy", "copy_", "clone", "_foreach_copy_")


class Operators(TorchDispatchMode):
    """Counts the operators that launch a kernel, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count one and run it."""
        name = func._schema.name.removeprefix("aten::")
        is_view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if not is_view and not name.startswith(("empty", "new_empty", "detach", "_unsafe_view")):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def narrow_head(setting: Setting, arm: str) -> TrainConfig:
    """Configure an arm, its head as narrow as its backbone."""
    config = configure(setting, arm)
    student = config.student.model_copy(update={"head_channels": 8})
    return config.model_copy(update={"student": student})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most", type=int, default=0, help="also the operators asked for most")
    options = parser.parse_args()
    arms: dict[tuple[str, str], Arm] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(BACKBONES, mit_b5=NARROW),
        patch.object(step_arms, "configure", narrow_head),
        cpu_threads(1),
    ):
        draw_data(Path(folder), SETTING)
        for name, letter in (("daformer", "a"), ("ssr", "b")):
            for precision in ("float32", "bfloat16"):
                setting = replace(SETTING, precision=precision)
                arms[name, precision] = build_arm(letter, Path(folder), setting)
        counts: dict[tuple[str, str], Counter[str]] = {}
        for key, arm in arms.items():
            arm.step(0)  # the optimiser sets itself up
            with Operators() as operators:
                arm.step(1)
            counts[key] = operators.counts
        for iteration in range(2, 2 + options.repeats):
            for arm in arms.values():
                started = process_time()
                waited = arm.step(iteration)
                arm.seconds.append(process_time() - started - waited)
    print("| | precision | operators | of them copies | ms per step |\n|---|---|---|---|---|")
    for key, arm in arms.items():
        of = counts[key]
        copies, ms = sum(of[name] for name in COPIES), 1000 * min(arm.seconds)
        print(f"| {' | '.join(key)} | {of.total()} | {copies} | {ms:.0f} |")
    for key in arms if options.most else ():
        print(*key, dict(counts[key].most_common(options.most)))


if __name__ == "__main__":
    main()
