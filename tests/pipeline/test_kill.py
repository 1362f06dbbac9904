"""`kill -9` in the middle of `dvc repro`, then `dvc repro`: as if nothing had happened."""

from pathlib import Path

import pytest
import torch

from tests.pipeline.repository import demand_repro, kill_repro, make_repository
from tests.pipeline.workplace import SMALLEST, stored

LONGER = {
    **SMALLEST,
    "prepare.source.train": 40,
    "prepare.target.train": 40,
    "store.shard_images": 2,
    "train.iterations": 40,
    "train.checkpoint_every": 4,
    "train.self_training.start": 10,
}
"""Twenty shards per domain and ten checkpoints, so that there is a middle to kill."""


def count_shards(folder: Path, domain: str) -> int:
    return len(list((folder / "data" / "features" / domain).glob("*.zarr/stride8/c.*.0.0.0")))


@pytest.mark.slow
def test_kills_leave_no_trace_in_features_student_and_metrics(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    make_repository(undisturbed, LONGER)
    make_repository(killed, LONGER)
    demand_repro(undisturbed)

    kill_repro(killed, lambda: count_shards(killed, "source") >= 5)
    assert 5 <= count_shards(killed, "source") < 20
    assert not (killed / "data/index.json").exists()

    kill_repro(killed, lambda: count_shards(killed, "target") >= 5)
    assert count_shards(killed, "source") == 20
    assert 5 <= count_shards(killed, "target") < 20

    checkpoint = killed / "runs" / "checkpoint.pt"
    kill_repro(killed, checkpoint.is_file)
    assert not (killed / "runs" / "student").exists()

    first = checkpoint.stat().st_mtime_ns
    kill_repro(killed, lambda: checkpoint.stat().st_mtime_ns > first)
    assert not (killed / "runs" / "student").exists()

    done = demand_repro(killed)
    assert "resumed after" in done.out
    expected, found = stored(undisturbed), stored(killed)
    assert found.keys() == expected.keys()
    differing = [name for name in expected if found[name] != expected[name]]
    # pickle's bytes tell one object from two, and the page says how long all took
    assert set(differing) <= {"runs/checkpoint.pt", "runs/report.html"}
    states = [torch.load(folder / "runs/checkpoint.pt") for folder in (undisturbed, killed)]
    for part in ("student", "ema", "regularizer"):
        one, other = (state[part] for state in states)
        assert all(torch.equal(one[name], other[name]) for name in one), part
    assert demand_repro(killed).skipped == ["train", "evaluate", "report"]
