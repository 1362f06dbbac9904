"""A teacher whose numbers cannot be stored: refused before the write, whatever the codec."""

import math
from pathlib import Path

import pytest

from stages.embed.teachers.sam_encoder import draw_encoder
from stages.embed.teachers.sam_sizes import ARCHITECTURES
from store.errors import StoreError
from tests.embed.world import World


def give_teacher(monkeypatch: pytest.MonkeyPatch, path: Path, bias: float) -> None:
    """Let a file hold an encoder that gives every token about this number in one channel.

    A file with NaN or Inf in it is refused; an encoder may compute them from other weights.
    """
    path.write_text(f"{bias}")
    encoder = draw_encoder(ARCHITECTURES["tiny"], seed=1)
    encoder.get_parameter("neck.3.bias").data[5] = bias
    monkeypatch.setattr("stages.embed.teachers.sam_encoder.load_encoder", lambda *_: encoder)


@pytest.mark.parametrize(
    ("codec", "bias"),
    [
        *(("float16", bias) for bias in (math.nan, math.inf, -math.inf, 1e6)),
        *(("int8-zstd", bias) for bias in (math.nan, -math.inf, 1e6)),
    ],
)
def test_features_that_are_no_numbers_or_too_large_never_reach_the_disk(
    world: World, codec: str, bias: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run()
    before, world.codec = world.features(), codec
    give_teacher(monkeypatch, world.folder / "bad.pth", bias)
    with pytest.raises(
        StoreError, match=r"stride8.* are NaN, Inf or .*check the teacher"
    ) as caught:
        world.run(weights=str(world.folder / "bad.pth"))
    assert "\n" not in str(caught.value)
    if codec == "float16":
        assert "192 of 12288 values" in str(caught.value)  # one channel of 12 x 16 tokens
        assert "source/train/a" in str(caught.value)
    after = world.features()
    assert before.items() <= after.items()
    written = [name.partition(".zarr/")[2] for name in after.keys() - before.keys()]
    assert "zarr.json" in written
    assert not [name for name in written if name.startswith(("stride8/c.", "ledger/stride8/"))]
    assert "scale_stride8/c.0" not in written
    give_teacher(monkeypatch, world.folder / "bad.pth", 1.0)
    assert world.run(weights=str(world.folder / "bad.pth")).domains["source"].embedded == 5
