"""Peak memory of an arm, each measured in a fresh process.

    python -m benchmarks.step_time.memory ARM FOLDER SETTING

prints the peak in bytes, allocated on the GPU or else resident in all, of two steps over the data
in the folder; the setting is JSON.
"""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.step_time.arms import build_arm, device_of
from benchmarks.step_time.setting import Setting
from pipeline.console import peak_bytes
from stages.device import cpu_threads


def measure_memory(arm: str, folder: Path, setting: Setting) -> int:
    """Start a process for the arm, and return its peak in bytes."""
    command = [sys.executable, "-m", "benchmarks.step_time.memory"]
    command += [arm, str(folder), json.dumps(asdict(setting))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout)


def main() -> None:
    """Run two steps, the second with the optimiser's state there, and print the peak."""
    name, folder, given = sys.argv[1:]
    setting = Setting(**json.loads(given))
    with cpu_threads(setting.threads):
        arm = build_arm(name, Path(folder), setting)
        for iteration in range(2):
            arm.step(iteration)
    on_gpu = device_of(setting).type == "cuda"
    print(torch.cuda.max_memory_allocated() if on_gpu else peak_bytes())


if __name__ == "__main__":
    main()
