"""`ssr restyle-fit`, as a person types it, and mixing with what it trained."""

from pathlib import Path

import pytest

from tests.pipeline.mistakes import assert_refused
from tests.pipeline.workplace import change_params, demand, ssr
from tests.restyle.test_issa import config

RESTYLE = {"styles": "source", "draws": 1, "splits": ["train"], "seed": 0}


def with_issa(workplace: Path, **changes: object) -> None:
    mixer = config(workplace / "issa", generator_steps=2, encoder_steps=2, checkpoint_every=1)
    values = {**mixer.model_dump(mode="json"), **changes}
    change_params(workplace, {"restyle": {**RESTYLE, "mixer": values}})


def test_a_mixer_that_is_not_trained_is_refused_in_one_line(workplace: Path) -> None:
    demand("prepare")
    assert_refused("restyle-fit", "restyle.mixer is not of kind issa")
    with_issa(workplace)
    assert_refused("restyle", "encoder.pt is not there; train it with `ssr restyle-fit`")


def test_an_encoder_is_trained_once_and_mixes(workplace: Path) -> None:
    demand("prepare")
    with_issa(workplace)
    assert "generator and encoder are trained" in demand("restyle-fit")
    files = [workplace / "issa" / name for name in ("generator.pt", "encoder.pt")]
    before = [file.read_bytes() for file in files]
    demand("restyle-fit")
    assert [file.read_bytes() for file in files] == before
    assert "6 made now" in demand("restyle")
    assert "0 made now" in demand("restyle")
    encoder = before[1]
    change_params(workplace, {"train.restyled": {"probability": 1.0, "features": "clean"}})
    for there, refusal in ((None, False), (encoder[:-1], True), (encoder, False)):
        files[1].unlink() if there is None else files[1].write_bytes(there)
        says = ssr("doctor").out
        assert ("another restyle.mixer: run `ssr restyle`" in says) == refusal
    files[1].unlink()
    assert "another restyle.mixer" in ssr("doctor", "-S", "restyle.mixer.latent=8").out
    files[1].write_bytes(encoder)
    with_issa(workplace, encoder_steps=3)
    assert_refused("restyle-fit", "encoder.pt is of another run; give another restyle.mixer.folder")
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("name", ["generator.pt", "encoder.pt"])
def test_a_damaged_checkpoint_is_said_in_one_line(workplace: Path, name: str) -> None:
    demand("prepare")
    with_issa(workplace)
    (workplace / "issa").mkdir()
    (workplace / "issa" / name).write_bytes(b"half")
    assert_refused("restyle-fit", f"{name} is a damaged checkpoint")
