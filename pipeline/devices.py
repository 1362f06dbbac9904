"""Speed of the encoder on devices that are not at hand: a small table with its sources."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

CPU: Final = "cpu"
SHARE_OF_PEAK: Final = 0.4
"""What a well-fed ViT reaches of a GPU's datasheet, about; `ssr plan --calibrate` measures."""


@dataclass(frozen=True, slots=True)
class Device:
    """One row of the table: TFLOP/s that the encoder is expected to reach, a MAC being two FLOP.

    Attributes:
        float32: in float32; on GPUs without TF32, as PyTorch does by default.
        half: in bfloat16 or float16.
        source: where the numbers come from.
    """

    float32: float
    half: float
    source: str


def _gpu(float32: float, half: float) -> Device:
    """Make a row of a datasheet's dense peaks in TFLOP/s."""
    source = f"assumed {SHARE_OF_PEAK:.0%} of the datasheet's dense peak"
    return Device(float32 * SHARE_OF_PEAK, half * SHARE_OF_PEAK, source)


DEVICES: Final[Mapping[str, Device]] = {
    CPU: Device(0.037, 0.072, "official ViT-B on one AMD EPYC core, times the cores here"),
    "l4": _gpu(30.3, 121),
    "rtx 3090": _gpu(35.6, 71),
    "rtx 4090": _gpu(82.6, 165),
    "a100": _gpu(19.5, 312),
    "h100": _gpu(67, 989),
    "h200": _gpu(67, 989),
}
"""Part of a device's name, in lower case -> its speed; the CPU's is per core."""


def device_here() -> str:
    """Name the device of this machine without torch: the GPU of `nvidia-smi`, or `cpu`."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return CPU
    query = (program, "--query-gpu=name", "--format=csv,noheader")
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    names = answer.stdout.splitlines()
    return names[0].strip() if answer.returncode == 0 and names else CPU


def flops_per_second(name: str, precision: str) -> tuple[float, str] | None:
    """Look up the speed of a device.

    Args:
        name: As `nvidia-smi` or a person writes it.
        precision: Of the forward pass.

    Returns:
        FLOP/s and where the number comes from; None for a device that is not in the table.
    """
    known = [key for key in DEVICES if re.search(rf"\b{key}\b", name.lower())]
    if not known:
        return None
    device = DEVICES[known[0]]
    tflops = device.float32 if precision == "float32" else device.half
    units = (os.cpu_count() or 1) if known[0] == CPU else 1
    return tflops * units * 1e12, device.source
