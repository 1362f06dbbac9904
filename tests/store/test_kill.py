"""A writer that is killed at any instant leaves a store that the next one continues."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from store.read import FeatureReader
from store.spec import StoreSpec
from tests.store.worlds import SPEC, assert_only_incomplete, changed, features, files, images, write

REPOSITORY = Path(__file__).parents[2]

BEFORE = images(5)
AFTER = [BEFORE[0], changed(BEFORE[1]), *BEFORE[2:4], *images(2, first=5)]
"""One image changed, one removed, two appended. The first shard keeps its size in bytes."""
LEVELS = ("stride8",)
BIT8 = replace(SPEC, codec="int8-zstd")  # whose scales are fixed before shards are written

# Forks one writer per system call that changes the disk and kills it just before that call.
KILL_BEFORE_EVERY_CHANGE = """
import os, shutil, signal, sys
from pathlib import Path
from tests.store.test_kill import AFTER, BIT8, LEVELS
from tests.store.worlds import SPEC, write

CHANGES = {"os.rename", "os.remove", "os.mkdir"}
start, out = map(Path, sys.argv[1:3])
spec = BIT8 if sys.argv[3] == BIT8.codec else SPEC
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
    write(folder, AFTER, levels=LEVELS, spec=spec)

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


def kill_before_every_change(start: Path, out: Path, spec: StoreSpec) -> list[Path]:
    command = [sys.executable, "-c", KILL_BEFORE_EVERY_CHANGE, str(start), str(out), spec.codec]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=120)
    return sorted(out.iterdir())


def test_a_kill_before_any_change_of_the_disk_is_survived(tmp_path: Path) -> None:
    start = tmp_path / "start"
    write(start, BEFORE, levels=LEVELS)
    shutil.copytree(start, tmp_path / "undisturbed")
    write(tmp_path / "undisturbed", AFTER, levels=LEVELS)
    undisturbed = files(tmp_path / "undisturbed" / SPEC.relative_path)
    killed = kill_before_every_change(start, tmp_path / "killed", SPEC)
    assert len(killed) > 40
    for url in killed:
        reverted = tmp_path / "reverted" / url.name
        shutil.copytree(url, reverted)
        write(url, AFTER, levels=LEVELS)
        assert files(url / SPEC.relative_path) == undisturbed, url.name
        # The change is taken back: nothing of it may pass for the old features.
        write(reverted, BEFORE, levels=LEVELS)
        reader = FeatureReader(reverted / SPEC.relative_path)
        for image in BEFORE:
            expected = features(image, "stride8").astype(np.float16)
            window = reader.window(image.image_id, "stride8", 0, 0, *expected.shape[1:])
            np.testing.assert_array_equal(window, expected)


@pytest.mark.slow
def test_a_kill_of_the_first_writer_leaves_shards_that_are_missing_never_wrong(
    tmp_path: Path,
) -> None:
    (tmp_path / "start").mkdir()
    write(tmp_path / "undisturbed", AFTER, levels=LEVELS, spec=BIT8)
    undisturbed = files(tmp_path / "undisturbed" / BIT8.relative_path)
    killed = kill_before_every_change(tmp_path / "start", tmp_path / "killed", BIT8)
    assert len(killed) > 40
    for url in killed:
        assert_only_incomplete(url / BIT8.relative_path)
        write(url, AFTER, levels=LEVELS, spec=BIT8)
        assert files(url / BIT8.relative_path) == undisturbed, url.name
