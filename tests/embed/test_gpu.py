"""Stage one on a GPU, from images to stores: what the CPU makes, to tolerance."""

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray

from stages.embed.teachers.encoder import Encoder
from stages.embed.teachers.teacher import Precision
from store.codec import Projection
from store.errors import StoreError
from store.spec import FLIPPED
from tests.embed.world import World, changed

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU"),
]
LEVELS = ("stride8", "stride16", "stride32")  # enlarged, as it is, shrunk


@pytest.fixture
def varied(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Images of several tiles and of less than one, as they are and mirrored."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for seed, (name, size_px) in enumerate({"b": (200, 333), "d": (33, 50)}.items(), start=10):
        world.add(name, size_px, seed=seed)
    world.config = changed(world.config, flips=("none", "horizontal"), levels=LEVELS)
    return world


def tokens(world: World, level: str) -> NDArray[np.float64]:
    """Tokens (N, C) of all images of a level."""
    (store,) = world.store_url.glob("source/*.zarr")
    stored = np.asarray(zarr.open_array(store / level)[:], np.float64)  # (images, C, h, w)
    each = np.moveaxis(stored, 1, -1).reshape(-1, stored.shape[1])
    present: NDArray[np.float64] = each[~np.isnan(each).any(axis=1)]
    return present


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_stores_of_a_gpu_equal_those_of_the_cpu(
    varied: World, tmp_path: Path, precision: Precision
) -> None:
    cpu = varied.twin(tmp_path / "cpu")
    cpu.run()
    varied.run(device="cuda", precision=precision)
    for level in (name + end for name in LEVELS for end in ("", FLIPPED)):
        ours, reference = tokens(varied, level), tokens(cpu, level)
        assert ours.shape == reference.shape
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(reference, axis=1)
        assert ((ours * reference).sum(axis=1) > 0.999 * norms).all()
        if precision == "float32":
            assert np.abs(ours - reference).max() < 1e-2 * reference.std()


@pytest.mark.parametrize(
    ("codec", "projection"), [("float16", None), ("int8", Projection(12, whiten=True))]
)
def test_an_interrupted_run_on_a_gpu_ends_with_the_same_bytes(
    varied: World, tmp_path: Path, codec: str, projection: Projection | None
) -> None:
    varied.codec, varied.projection = codec, projection
    undisturbed = varied.twin(tmp_path / "twin")
    undisturbed.run(device="cuda")

    def interrupt(done: int, total: int, what: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        varied.run(interrupt, device="cuda")
    assert varied.run(device="cuda").embedded < len(varied.records)
    assert varied.features() == undisturbed.features()


def test_what_exceeds_float16_on_a_gpu_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Encoder.start
    monkeypatch.setattr(
        Encoder,
        "start",
        lambda *args: {level: 1e6 * found for level, found in start(*args).items()},
    )
    with pytest.raises(StoreError, match="values are NaN, Inf or beyond float16"):
        world.run(device="cuda")
