"""Restyled images are made once, of what they say of themselves, and to the same bytes anyhow."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.prepare.datasets.dataset import Progress
from stages.prepare.manifest import ImageRecord
from stages.prepare.pixels import read_image, read_raw, resize_image
from stages.prepare.restyled import Restyled
from stages.restyle import stage
from stages.restyle.stage import RestyleConfig, RestyleResult, require_current_restyled
from store.errors import DataError
from store.fingerprint import sha256_of_file
from tests.train.world import World, silent

MIXER: dict[str, Any] = {"kind": "statistics", "strength": 1.0, "octaves": 2, "max_gain": 2.0}


def config(**changes: Any) -> RestyleConfig:  # noqa: ANN401 - of params
    example = {"mixer": MIXER, "styles": "target", "draws": 2, "splits": ["train", "val"]}
    return RestyleConfig.model_validate({**example, "seed": 0, **changes})


def restyle(
    world: World,
    chosen: RestyleConfig | None,
    progress: Progress = silent,
    part: tuple[int, int] = (1, 1),
) -> RestyleResult:
    return stage.run(
        chosen,
        manifest_path=world.manifest_path,
        roots=world.roots,
        out=world.workspace.restyled,
        progress=progress,
        part=part,
    )


def made(world: World) -> dict[str, bytes]:
    """All that the stage wrote, but for what a kill left half-written."""
    files = [*(world.folder / "restyled").rglob("*.png"), world.workspace.restyled]
    return {str(p.relative_to(world.folder)): p.read_bytes() for p in files if p.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Six images to train on and one to validate, of each domain; nothing is embedded."""
    world = World(tmp_path_factory.mktemp("drawn"))
    world.prepare()
    return world


@pytest.fixture
def world(drawn: World, tmp_path: Path) -> World:
    return drawn.copy(tmp_path / "mine")


@pytest.mark.parametrize("styles", ["source", "target"])
def test_an_image_is_what_its_mixer_makes_of_what_it_names(world: World, styles: str) -> None:
    chosen = config(styles=styles)
    assert restyle(world, chosen).made == 2 * 7
    restyled = Restyled.read(world.workspace.restyled, of=world.manifest_path)
    records = {record.image_id: record for record in world.manifest.records}

    def pixels(record: ImageRecord) -> Any:  # noqa: ANN401 - an array
        raw = read_raw(record, world.roots[record.domain])
        return resize_image(raw, record.resized_size_px)

    used = set()
    for record in restyled.manifest.records:
        noted = restyled.noted["images"][record.image_id]
        content, style = (records[noted[name]] for name in ("content", "style"))
        assert (style.domain, style.split) == (styles, "train")
        assert content.domain == "source"
        assert content.image_id != style.image_id
        used.add(style.image_id)
        mixed = chosen.mixer.mix(pixels(content), pixels(style))
        np.testing.assert_array_equal(read_raw(record, restyled.root), mixed)
        assert record == replace(
            content,
            image_id=record.image_id,
            domain="restyled",
            image=record.image,
            raw_size_px=content.resized_size_px,
            sha256=sha256_of_file(restyled.root / record.image),
        )
        with Image.open(restyled.root / record.image) as image:
            said = json.loads(image.text["ssr.restyled"])  # type: ignore[attr-defined]
        assert said["mixer"] == MIXER
        assert {name: said[name] for name in ("content", "style", "draw")} == noted
        assert said["style_sha256"] == style.sha256
    assert len(used) > 3
    assert [len(found) for found in restyled.versions("train").values()] == [2] * 6


def test_parts_and_a_second_run_give_the_same_bytes_and_make_nothing_twice(
    world: World, tmp_path: Path
) -> None:
    other = world.copy(tmp_path / "other")
    restyle(world, config())
    for number in (3, 1, 2):
        restyle(other, config(), part=(number, 3))
        assert not other.workspace.restyled.exists()
    assert restyle(other, config()).made == 0
    assert made(other) == made(world)
    before = world.workspace.restyled.stat().st_mtime_ns
    assert restyle(world, config()).made == 0
    assert world.workspace.restyled.stat().st_mtime_ns == before


def die(done: int, total: int, what: str) -> None:
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_goes_on_where_it_was(world: World, tmp_path: Path) -> None:
    other = world.copy(tmp_path / "other")
    killed = multiprocessing.get_context("fork").Process(
        target=restyle, args=(world, config(), die)
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not world.workspace.restyled.exists()
    assert restyle(world, config()).made <= 14 - 5
    restyle(other, config())
    assert made(world) == made(other)


def flip_bits(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def replace_by_another(path: Path) -> None:
    path.write_bytes(path.with_name(path.name.replace(".0.png", ".1.png")).read_bytes())


@pytest.mark.parametrize("spoil", [flip_bits, replace_by_another, Path.unlink])
def test_what_is_damaged_or_lost_is_made_again_and_nothing_else(
    world: World, spoil: Callable[[Path], None]
) -> None:
    restyle(world, config())
    before = made(world)
    spoil(sorted((world.folder / "restyled").rglob("*.0.png"))[0])
    world.workspace.restyled.write_bytes(b"PAR1")
    assert restyle(world, config()).made == 1
    assert made(world) == before


def test_other_settings_have_a_folder_of_their_own_and_more_draws_join(world: World) -> None:
    one = restyle(world, config(draws=1, splits=["train"]))
    before = made(world)
    more = restyle(world, config())
    assert (one.made, more.made) == (6, 8)
    assert more.folder == one.folder
    for changes in ({"seed": 1}, {"styles": "source"}, {"mixer": {**MIXER, "octaves": 1}}):
        another = restyle(world, config(**changes))
        assert another.made == 14
        assert another.folder != one.folder
    after = made(world)
    assert {name: after[name] for name in before if name.endswith("png")}.items() <= before.items()


def test_a_content_that_changed_is_restyled_anew(world: World) -> None:
    restyle(world, config())
    record = world.manifest.select(domain="source", split="train")[2]
    path = world.roots["source"] / record.image
    Image.fromarray(255 - read_image(path)).save(path)
    with pytest.raises(DataError, match=r"has changed since the manifest was made"):
        restyle(world, config(seed=1))
    world.prepare()
    with pytest.raises(DataError, match=r"was made of other images: run `ssr restyle`$"):
        Restyled.read(world.workspace.restyled, of=world.manifest_path)
    assert restyle(world, config()).made == 2


def test_images_that_are_lost_or_too_few_for_styles_are_one_line(world: World) -> None:
    (first, *_), (val,) = (
        world.manifest.select(domain="source", split=s) for s in ("train", "val")
    )
    (world.roots["source"] / first.image).unlink()
    with pytest.raises(DataError, match=r"^.*cannot be read.*$"):
        restyle(world, config())
    replace(world.manifest, records=(first, val)).write(world.manifest_path)
    with pytest.raises(DataError, match=r"^restyle.styles is source, and .* has one image.*$"):
        restyle(world, config(styles="source"))


def test_images_of_other_settings_are_refused_and_none_are_said_to_be_none(world: World) -> None:
    def require(**changes: Any) -> None:  # noqa: ANN401 - of params
        require_current_restyled(
            config(**changes), manifest_path=world.manifest_path, path=world.workspace.restyled
        )

    restyle(world, None)
    with pytest.raises(DataError, match=r"holds no restyled images: run `ssr restyle`$"):
        require()
    restyle(world, config(splits=["val"]))
    require(splits=["val"])
    for changes, key in (({"seed": 1}, "seed"), ({"draws": 1}, "draws")):
        with pytest.raises(DataError, match=rf"another restyle\.{key}.*: run `ssr restyle`$"):
            require(splits=["val"], **changes)
    with pytest.raises(DataError, match=r"no image of source/train is restyled: add train"):
        Restyled.read(world.workspace.restyled, of=world.manifest_path).versions("train")
    world.workspace.restyled.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"is damaged.*run `ssr restyle` again"):
        require()
