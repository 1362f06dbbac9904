"""`ssr plan`: the estimate against a real run, and what an encoder costs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from pipeline.params import Params, load_params
from pipeline.plan import (
    LevelPlan,
    plan_stores,
    size_bytes,
    tiles_per_step,
)
from pipeline.project import Project
from stages.embed.teachers.encoder import Encoder
from stages.embed.teachers.sam_encoder import macs_per_tile
from stages.embed.teachers.sam_sizes import ArchitectureName
from stages.prepare.labels import CITYSCAPES_19
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from tests.pipeline.workplace import (
    PHOTOS,
    SMALLEST,
    add_photos,
    demand,
    made,
    the_store,
    write_params,
)

LEVELS = "embed.levels=[stride8, stride16]"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after prepare and embed at two levels."""
    folder = tmp_path_factory.mktemp("embedded")
    add_photos(folder)
    return made(folder, {**SMALLEST, **PHOTOS}, "prepare", f"embed -S '{LEVELS}'")


@pytest.fixture
def there(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(embedded)
    return embedded


@pytest.fixture
def paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Params]:
    """The preset of the paper, with changes."""
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {}, preset="gta5-to-cityscapes")
    return lambda *changes: load_params(Path("params.yaml"), changes)


def records(domain: Domain, count: int, size_px: tuple[int, int]) -> list[ImageRecord]:
    sizes = (size_px, size_px, size_px)
    one = ImageRecord("", domain, "train", "", None, *sizes, "0" * 64, None, None)
    names = (f"images/{number:05d}" for number in range(count))
    return [replace(one, image_id=f"{domain}/train/{name}", image=f"{name}.png") for name in names]


def planned(*overrides: str) -> list[LevelPlan]:
    return plan_stores(Project.load(Path("params.yaml"), overrides))


def test_sizes_are_those_of_shards(there: Path) -> None:
    for level in planned(LEVELS):
        shards = [*the_store(level.domain, there).glob(f"{level.level}/c.*")]
        written = sum(path.stat().st_size for path in shards)
        assert level.size_bytes == pytest.approx(written, rel=0.02)


@pytest.mark.usefixtures("there")
def test_tiles_are_counted_as_they_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = 0
    start = Encoder.start

    def count(self: Encoder, tiles: Sequence[Tensor], levels: Sequence[str]) -> dict[str, Tensor]:
        nonlocal encoded
        encoded += len(tiles)
        return start(self, tiles, levels)

    monkeypatch.setattr(Encoder, "start", count)
    demand("embed", "-S", LEVELS, "-S", "store.url=elsewhere")
    assert encoded == sum(level.tiles for level in planned(LEVELS))


def test_the_papers_setting_needs_what_its_arithmetic_says(paper: Callable[..., Params]) -> None:
    images = (*records("source", 24_966, (704, 1280)), *records("target", 2_975, (512, 1024)))
    project = Project(paper())
    sources = {name: each.identity for name, each in project.params.prepare.domains.items()}
    Manifest(CITYSCAPES_19, images, {}, sources=sources).write(project.workspace.manifest)
    plan = plan_stores(project)
    # 704x1280 is 88x160 tokens of stride 8: 2x3 tiles of 64 that share 8; 512x1024 is 64x128: 1x3
    assert sum(level.tiles for level in plan) == 24_966 * 6 + 2_975 * 3
    tokens = 24_966 * (96 * 160) + 2_975 * (64 * 128)  # in whole chunks of 16x16
    assert size_bytes(plan, "float16") == pytest.approx(tokens * 256 * 2, rel=0.001)
    assert size_bytes(plan, "int8") == pytest.approx(tokens * 256, rel=0.001)


@pytest.mark.parametrize(
    ("changes", "tiles"),
    [
        ([], 4),  # two source and two mixed images a step
        (["train.regularizer.on=[source]"], 2),
        (["train.regularizer.on=[]"], 0),
        (["train.crop_px=768", "prepare.pad_to_px=768"], 16),  # four tiles a crop
        (["train.regularizer.levels=[stride8, stride8, null, stride16]", "train.crop_align_px=16",
          "embed.levels=[stride8, stride16]"], 8),
    ],
)  # fmt: skip
def test_the_teacher_in_the_loop_encodes_each_crop(
    changes: list[str], tiles: int, paper: Callable[..., Params]
) -> None:
    assert tiles_per_step(paper(*changes)) == tiles


@pytest.mark.parametrize(
    ("name", "gmac"), [("vit_b", 486), ("vit_l", 1493), ("vit_h", 2981)]
)  # counted on the official encoders
def test_multiply_accumulates_are_those_of_the_official_encoders(
    name: ArchitectureName, gmac: int
) -> None:
    assert macs_per_tile(name) == pytest.approx(gmac * 1e9, rel=1e-3)


@pytest.mark.usefixtures("there")
def test_the_command_says_everything_without_weights_and_warns_of_a_full_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.plan.disk_usage", lambda path: type("Usage", (), {"free": 5}))
    said = demand("plan", "-S", "embed.teacher.weights=not/there.pth", "--device", "a100")
    for words in ("source stride8", "int8-zstd", "time: ", "a100", "break-even: step"):
        assert words in said
    assert "5 bytes free at data/features: NOT ENOUGH" in said
    assert "time: unknown, abacus" in demand("plan", "--device", "abacus")
    said = demand("plan", "--calibrate", "-S", "embed.teacher.weights=not/there.pth")
    assert "tiles/s on cpu, measured" in said
    assert "/s, measured at data/features; the teacher goes on meanwhile" in said
