"""A writer that is killed at any instant leaves a store that the next one continues."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from store.read import FeatureReader
from store.spec import ImageEntry
from tests.store.worlds import SPEC, changed, features, files, images, write

REPOSITORY = Path(__file__).parents[2]

BEFORE = images(5)
AFTER = [BEFORE[0], changed(BEFORE[1]), *BEFORE[2:4], *images(2, first=5)]
"""One image changed, one removed, two appended. The first shard keeps its size in bytes."""
LEVELS = ("stride8",)

# Forks one writer per system call that changes the disk and kills it just before that call.
KILL_BEFORE_EVERY_CHANGE = """
import os, shutil, signal, sys
from pathlib import Path
from tests.store.test_kill import AFTER, LEVELS
from tests.store.worlds import write

CHANGES = {"os.rename", "os.remove", "os.mkdir"}
start, out = map(Path, sys.argv[1:])
os.fsync = lambda descriptor: None

def run(folder, instant):
    left = instant
    def hook(event, args):
        nonlocal left
        writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or writes:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
    sys.addaudithook(hook)
    write(folder, AFTER, levels=LEVELS)

for instant in range(1000):
    shutil.copytree(start, out / f"{instant:03d}")
    child = os.fork()
    if child == 0:
        run(out / f"{instant:03d}", instant)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert status == 0, status
        break
"""


def assert_holds(store: Path, wanted: list[ImageEntry]) -> None:
    reader = FeatureReader(store)
    for image in wanted:
        expected = features(image, "stride8").astype(np.float16)
        window = reader.window(image.image_id, "stride8", 0, 0, *expected.shape[1:])
        np.testing.assert_array_equal(window, expected)


def test_a_kill_before_any_change_of_the_disk_is_survived(tmp_path: Path) -> None:
    start, out = tmp_path / "start", tmp_path / "killed"
    write(start, BEFORE, levels=LEVELS)
    shutil.copytree(start, tmp_path / "undisturbed")
    write(tmp_path / "undisturbed", AFTER, levels=LEVELS)
    undisturbed = files(tmp_path / "undisturbed" / SPEC.relative_path)

    command = [sys.executable, "-c", KILL_BEFORE_EVERY_CHANGE, str(start), str(out)]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=120)

    killed = sorted(out.iterdir())
    assert len(killed) > 40
    for url in killed:
        reverted = tmp_path / "reverted" / url.name
        shutil.copytree(url, reverted)
        write(url, AFTER, levels=LEVELS)
        assert files(url / SPEC.relative_path) == undisturbed, url.name
        # The change is taken back: nothing of it may pass for the old features.
        write(reverted, BEFORE, levels=LEVELS)
        assert_holds(reverted / SPEC.relative_path, BEFORE)
