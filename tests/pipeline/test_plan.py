"""`ssr plan`: the estimate against a real run, and the arithmetic of break-even."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.devices import CPU, DEVICES, flops_per_second
from pipeline.files import MANIFEST
from pipeline.params import Params, load_params
from pipeline.plan import BreakEven, StoresPlan, break_even, free_bytes, plan_stores, table_speed
from stages.prepare.labels import CITYSCAPES_19
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from tests.pipeline.workplace import (
    PHOTOS,
    REPOSITORY,
    SMALLEST,
    add_photos,
    demand,
    ssr,
    the_store,
    write_params,
)

LEVELS = "embed.levels=[stride8, stride16]"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after prepare and embed at two levels."""
    folder = tmp_path_factory.mktemp("embedded")
    write_params(folder, {**SMALLEST, **PHOTOS})
    add_photos(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        demand("prepare")
        demand("embed", "-S", LEVELS)
    return folder


@pytest.fixture
def there(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(embedded)
    return embedded


def paper() -> tuple[Params, Manifest]:
    """The preset of the paper, and a manifest of the two datasets' sizes."""
    write_params(Path(), {}, preset="gta5-to-cityscapes")
    return load_params(Path("params.yaml")), Manifest(
        CITYSCAPES_19,
        (*_records("source", 24_966, (704, 1280)), *_records("target", 2_975, (512, 1024))),
        {},
    )


def _records(domain: Domain, count: int, size_px: tuple[int, int]) -> list[ImageRecord]:
    return [
        ImageRecord(
            image_id=f"{domain}/train/images/{number:05d}",
            domain=domain,
            split="train",
            image=f"images/{number:05d}.png",
            label=None,
            raw_size_px=size_px,
            resized_size_px=size_px,
            working_size_px=size_px,
            sha256=f"{number:064x}",
            class_pixels=None,
            label_sha256=None,
        )
        for number in range(count)
    ]


def planned(*overrides: str) -> StoresPlan:
    return plan_stores(load_params(Path("params.yaml"), overrides), Manifest.read(MANIFEST))


def test_files_are_exact_and_bytes_within_five_percent_of_a_real_run(there: Path) -> None:
    plan = planned(LEVELS)
    files = [path for path in there.glob("data/features/*/*.zarr/**/*") if path.is_file()]
    size_bytes = sum(path.stat().st_size for path in files)
    assert plan.room.files == len(files)
    assert plan.room.size_bytes == pytest.approx(size_bytes, rel=0.05)


@pytest.mark.usefixtures("there")
def test_tiles_are_counted_as_they_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from stages.embed.teachers.sam_encoder import SamEncoder

    encoded = 0
    start = SamEncoder.start

    def count(
        self: SamEncoder, tiles: Sequence[Tensor], levels: Sequence[str]
    ) -> Callable[[], dict[str, Tensor]]:
        nonlocal encoded
        encoded += len(tiles)
        return start(self, tiles, levels)

    monkeypatch.setattr(SamEncoder, "start", count)
    demand("embed", "-S", LEVELS, "-S", "store.url=elsewhere")
    assert encoded == planned(LEVELS).tiles


def test_the_papers_setting_needs_what_its_arithmetic_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_stores(*paper())
    # 704x1280 is 88x160 tokens of stride 8: 2x3 tiles of 64 that share 8; 512x1024 is 64x128: 1x3
    assert plan.tiles == 24_966 * 6 + 2_975 * 3
    tokens = 24_966 * (96 * 160) + 2_975 * (64 * 128)  # in whole chunks of 16x16
    assert plan.size_bytes("float16") == pytest.approx(tokens * 256 * 2, rel=0.001)
    assert plan.size_bytes("int8") == pytest.approx(tokens * 256, rel=0.001)
    shards = -(-24_966 // 32) - (-2_975 // 32)
    assert sum(level.room.files for level in plan.levels) == 2 * shards


@pytest.mark.parametrize(
    ("changes", "tiles", "tiles_per_step", "steps"),
    [
        ([], 158_721, 4, 39_681),  # two source and two mixed images a step
        (["train.regularizer.on=[source]"], 158_721, 2, 79_361),
        (["train.regularizer.on=[mixed]"], 158_721, 2, 79_361),
        (["train.self_training.start=10000"], 158_721, 4, 44_681),  # 10,000 steps with two tiles
        (["train.self_training.start=100000"], 158_721, 4, 79_361),
        (["train.crop_px=768", "prepare.pad_to_px=768"], 158_721, 16, 9_921),  # four tiles a crop
        (["train.regularizer.levels=[stride8, stride8, null, stride16]", "train.crop_align_px=16",
          "embed.levels=[stride8, stride16]"], 211_628, 8, 26_454),
    ],
)  # fmt: skip
def test_break_even_is_where_the_teacher_in_the_loop_has_encoded_more(
    changes: list[str], tiles: int, tiles_per_step: int, steps: int, tmp_path: Path
) -> None:
    write_params(tmp_path, {}, preset="gta5-to-cityscapes")
    params = load_params(tmp_path / "params.yaml", changes)
    assert break_even(params, tiles) == BreakEven(tiles_per_step, steps)


@pytest.mark.usefixtures("there")
def test_without_a_regulariser_there_is_nothing_to_break_even_with() -> None:
    assert "break-even: none" in demand("plan", "-S", "train.regularizer.on=[]")


def test_a_device_is_found_by_a_part_of_its_name() -> None:
    a100 = flops_per_second("NVIDIA A100-SXM4-80GB", "bfloat16")
    assert a100 is not None
    assert a100[0] == DEVICES["a100"].half * 1e12
    float32 = flops_per_second("a100", "float32")
    assert float32 is not None
    assert float32[0] < a100[0]
    assert flops_per_second("abacus", "float32") is None
    assert flops_per_second(CPU, "float32") is not None


@pytest.mark.usefixtures("there")
def test_a_device_is_not_taken_for_one_whose_name_begins_like_its_own() -> None:
    assert flops_per_second("NVIDIA L40S", "bfloat16") is None
    assert flops_per_second("NVIDIA L4", "bfloat16") is not None
    assert flops_per_second("NVIDIA A100-SXM4-80GB", "bfloat16") is not None


def test_table_speed_is_flops_over_the_flops_of_a_tile() -> None:
    speed = table_speed(load_params(Path("params.yaml")).embed, "h100")
    assert speed is not None
    assert speed.tiles_per_second == pytest.approx(
        DEVICES["h100"].float32 * 1e12 / 0.386e9, rel=0.01
    )
    assert "h100" in speed.source


def test_free_room_is_asked_of_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    assert free_bytes(str(tmp_path / "not" / "there")) == free_bytes(str(tmp_path))
    assert free_bytes("s3://bucket/features") is None


@pytest.mark.usefixtures("there")
def test_the_command_says_everything_without_weights_and_warns_of_a_full_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.plan.disk_usage", lambda path: type("Usage", (), {"free": 5}))
    said = demand("plan", "-S", "embed.teacher.weights=not/there.pth", "--device", "a100")
    for words in ("tiles", "source stride8", "int8-zstd", "time: ", "a100", "memory: embed"):
        assert words in said
    assert "5 B free at data/features: NOT ENOUGH" in said
    assert "break-even: step" in said


@pytest.mark.usefixtures("there")
def test_an_unknown_device_and_a_calibrated_one_say_where_the_time_comes_from() -> None:
    assert "time: unknown, abacus is not in the table" in demand("plan", "--device", "abacus")
    assert "(measured on this machine" in demand("plan", "--calibrate")


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("command", ["inspect {store} --png out.png", "verify {store}"])
def test_looking_at_stores_needs_no_torch(command: str) -> None:
    words = command.format(store=the_store("source")).split()
    program = (
        "import atexit, sys; from pipeline.cli import main; sys.argv = ['ssr', *sys.argv[1:]]\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        "main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines()[-1] == "False"


def test_without_a_manifest_it_names_the_command_that_makes_one(workplace: Path) -> None:
    outcome = ssr("plan")
    assert outcome.code == 2
    assert "run `ssr prepare` first" in outcome.err
