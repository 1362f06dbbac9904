"""`ssr export`, `ssr predict` and `ssr import` as a person types them."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from stages.student.student import load_student
from tests.official import export_official
from tests.pipeline.mistakes import assert_refused
from tests.pipeline.workplace import demand

RUNS = ("runs", "runs/theirs")


def test_a_student_is_exported_and_its_export_predicts_the_same(photos: Path) -> None:
    said = demand("export", "runs", "--out", "exported")
    assert "exported: load with Student.from_pretrained of this project" in said
    assert "its head is daformer" in said
    card = Path("exported/README.md").read_text()
    assert "On target/val, 2 images, in percent: mean IoU" in card
    assert "- source: camvid, 6 images, labelled" in card
    assert str(photos) not in card + Path("exported/config.json").read_text()
    for model in ("runs", "exported"):
        said = demand("predict", model, "photos/dusk_val/images", "--out", f"of-{model}")
        assert f"2 images, at their own size: of-{model}/labels" in said
    for name in ("00012", "00013"):
        one, other = (Path(f"of-{m}/labels/{name}.png") for m in ("runs", "exported"))
        assert one.read_bytes() == other.read_bytes()
        with Image.open(one) as label, Image.open(f"photos/dusk_val/images/{name}.png") as photo:
            assert label.size == photo.size


def official_checkpoint(path: Path, student: Path) -> None:
    """Write a trained student as an official training would have saved it."""
    network, meta = load_student(student)
    official = export_official(network.state_dict())
    state = {f"model.{name}": tensor for name, tensor in official.items()}
    classes = {"CLASSES": tuple(meta["classes"]), "PALETTE": meta["palette"], "iter": 7}
    torch.save({"meta": classes, "state_dict": state}, path)


def test_an_imported_student_is_taken_by_every_command(photos: Path) -> None:
    official_checkpoint(Path("latest.pth"), Path("runs/student"))
    said = demand("import", "latest.pth", "--out", "runs/theirs/student")
    assert "training after 7 iterations; mit_tiny, daformer head of 16 channels, 11 classes" in said
    assert "student in runs/theirs/student" in said
    demand("evaluate", "--out", "runs/theirs")
    ours, theirs = (json.loads(Path(f"{run}/metrics.json").read_text()) for run in RUNS)
    assert (ours["iou"], ours["miou"]) == (theirs["iou"], theirs["miou"])
    demand("report", "--out", "runs/theirs")
    assert "its recipe is not noted" in Path("runs/theirs/report.html").read_text()
    demand("export", "runs/theirs", "--out", "exported")
    assert "Imported from latest.pth" in Path("exported/README.md").read_text()
    demand("predict", "runs/theirs", "photos/dusk_val/images", "--out", "predicted")
    demand("train", "-S", "train.init=runs/theirs/student", "--out", "runs/further")
    meta = load_student(Path("runs/further/student"))[1]
    assert meta["weights"] == "latest.pth"  # whose terms hold for the new student as well


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("export gone --out exported", ("gone: there is no such folder", "`ssr train`")),
        ("export runs --out .", ("holds other files", "give a folder of its own")),
        ("predict runs notes.txt --out predicted", ("notes.txt: is damaged or not an image",)),
        ("predict runs photos/dusk --out params.yaml/x", ("params.yaml", "check the path")),
        ("predict runs photos/dusk --out o --window 33", ("--window 33", "multiple of 32")),
        ("predict runs photos/dusk --out o --fit 5", ("--fit 5", "WIDTHxHEIGHT")),
        ("import notes.txt --out theirs", ("notes.txt is damaged or not a weight file",)),
        ("import notes.txt --out o --classes ade", ("--classes ade", "cityscapes, camvid")),
        ("evaluate --weights ema --model runs/student", ("holds one student", "give its run")),
        ("compare runs", ("runs is one run", "name another one")),
        ("report --compare absent", ("absent: there is no such folder", "`ssr train`")),
        ("probe --student absent", ("there is no such folder",)),
    ],
)
@pytest.mark.usefixtures("photos")
def test_a_mistake_is_one_line_and_exit_code_2(words: str, parts: tuple[str, ...]) -> None:
    Path("notes.txt").write_text("no image")
    assert_refused(words, *parts)
    assert not Path("exported").exists()
