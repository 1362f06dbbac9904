"""Whatever a person gets wrong is one line on stderr, exit code 2, and nothing stored is lost."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stages.embed.architectures import ARCHITECTURES
from stages.embed.teacher import draw_encoder
from stages.embed.weights import PREFIX
from store.lock import writer_lock
from tests.pipeline.workplace import change_params, shard, ssr, stored, the_store

DAY = Path("photos/day")
STUDENT = Path("runs/student")
LONGEST = 320
"""Characters in a line; a message that names two paths needs some."""


def leave_it() -> None:
    """The command line alone is wrong."""


@dataclass(frozen=True)
class Case:
    """A mistake.

    Attributes:
        name: What the person did.
        command: What they typed after `ssr`.
        says: Parts of the line that it gets: what is wrong, where, and how to mend it.
        spoil: Does it, in a folder where all stages have run.
    """

    name: str
    command: str
    says: tuple[str, ...]
    spoil: Callable[[], object] = leave_it


def save_teacher(name: str) -> None:
    """Save a tiny SAM encoder as a checkpoint in the official layout."""
    weights = draw_encoder(ARCHITECTURES["tiny"], seed=7).state_dict()
    torch.save({PREFIX + key: value for key, value in weights.items()}, name)


def spoil_label(value: int, size_px: tuple[int, int] = (64, 128)) -> None:
    Image.fromarray(np.full(size_px, value, np.uint8)).save(DAY / "labels" / "00001.png")


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def params(**sections: dict[str, object]) -> Callable[[], None]:
    """Change keys of params.yaml: `params(train={"crop_px": 96})`."""
    return lambda: change_params(
        Path(),
        {f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items()},
    )


CASES = [
    # params.yaml
    Case(
        "no params file",
        "prepare",
        ("params.yaml", "no such file", "ssr init"),
        lambda: Path("params.yaml").unlink(),
    ),
    Case(
        "params file elsewhere",
        "train --params other.yaml",
        ("other.yaml", "no such file", "ssr init"),
    ),
    Case(
        "params file is a folder",
        "prepare --params photos",
        ("photos", "ssr init"),
    ),
    Case(
        "params file is no YAML",
        "prepare",
        ("params.yaml", "line 3", "YAML"),
        lambda: Path("params.yaml").write_text("prepare:\n  source:\n kind: [\n"),
    ),
    Case(
        "params file with a tab",
        "prepare",
        ("params.yaml", "line 2", "YAML"),
        lambda: Path("params.yaml").write_text("prepare:\n\tsource: 1\n"),
    ),
    Case(
        "key written twice",
        "prepare",
        ("params.yaml", "line 2"),
        lambda: Path("params.yaml").write_text("prepare: {}\nprepare: {}\n"),
    ),
    Case(
        "params file is binary",
        "prepare",
        ("params.yaml", "YAML"),
        lambda: shutil.copy(DAY / "images" / "00000.png", "params.yaml"),
    ),
    Case(
        "params file is empty",
        "prepare",
        ("params.yaml", "no sections", "ssr init"),
        lambda: Path("params.yaml").write_text(""),
    ),
    Case(
        "params file is a list",
        "prepare",
        ("params.yaml", "no sections", "ssr init"),
        lambda: Path("params.yaml").write_text("- prepare\n"),
    ),
    Case(
        "section left out",
        "prepare",
        ("params.yaml", "prepare is missing", "ssr init"),
        lambda: Path("params.yaml").write_text("trian: {}\n"),
    ),
    Case(
        "unknown key",
        "train",
        ("params.yaml", "train.iteratons", "did you mean train.iterations?"),
        params(train={"iteratons": 10}),
    ),
    Case(
        "unknown key like no other",
        "train",
        ("train.optimizer.zzz", "known here: lr, "),
        params(train={"optimizer.zzz": 10}),
    ),
    Case(
        "unknown section",
        "train",
        ("trian", "did you mean train?"),
        lambda: change_params(Path(), {"trian": {}}),
    ),
    Case(
        "number as a key",
        "train",
        ("params.yaml", "7"),
        lambda: change_params(Path(), {"train.7": 1}),
    ),
    Case(
        "unknown key of a source",
        "prepare",
        ("prepare.source.exlude", "did you mean prepare.source.exclude?"),
        params(prepare={"source.exlude": []}),
    ),
    Case(
        "unknown key of a target's splits",
        "prepare",
        ("prepare.target.splits.vall", "did you mean prepare.target.splits.val?"),
        params(prepare={"target.splits.vall": "dusk"}),
    ),
    Case(
        "key of another kind of source",
        "prepare",
        ("prepare.source.val_list", "no known key"),
        params(prepare={"source.val_list": None}),
    ),
    Case(
        "unknown kind of source",
        "prepare",
        ("prepare.source.kind", "camvdi", "drawn, camvid, gta5, cityscapes, folder"),
        params(prepare={"source.kind": "camvdi"}),
    ),
    Case(
        "no kind of source",
        "prepare",
        ("prepare.source.kind", "missing"),
        params(prepare={"source": {"root": "photos"}}),
    ),
    Case(
        "text for a source",
        "prepare",
        ("prepare.source", "photos"),
        params(prepare={"source": "photos"}),
    ),
    Case(
        "value out of range",
        "train",
        ("train.crop_px", "100", "multiple of 32"),
        params(train={"crop_px": 100}),
    ),
    Case(
        "share above one",
        "embed",
        ("embed.overlap", "0.9", "0.5"),
        params(embed={"overlap": 0.9}),
    ),
    Case(
        "text for a number",
        "train",
        ("train.iterations", "'many'", "integer"),
        params(train={"iterations": "many"}),
    ),
    Case(
        "number for a section",
        "train",
        ("train.student", "3"),
        params(train={"student": 3}),
    ),
    Case(
        "list for a section",
        "train",
        ("embed", "section"),
        lambda: change_params(Path(), {"embed": list(range(500))}),
    ),
    Case(
        "three levels for four stages",
        "train",
        ("train.regularizer.levels", "missing"),
        params(train={"regularizer.levels": ["stride8"] * 3}),
    ),
    Case(
        "level that there is not",
        "embed",
        ("embed.levels.0", "'stride4'", "'stride8'"),
        params(embed={"levels": ["stride4"]}),
    ),
    Case(
        "crop off the grid of the level",
        "train",
        ("train", "crop_align_px 8", "stride32", "set it to 32"),
        params(train={"regularizer.levels": ["stride32"] * 4, "crop_align_px": 8}),
    ),
    Case(
        "mixed images without self-training",
        "train",
        ("mixed", "self_training is null"),
        params(train={"self_training": None}),
    ),
    # --set
    Case("set without a value", "train -S train.seed", ("--set train.seed", "section.key=value")),
    Case("set without a section", "train -S seed=1", ("--set seed=1", "section.key=value")),
    Case("set without a key", "train -S =1", ("--set =1", "section.key=value")),
    Case("set with an empty key", "train -S train.=1", ("--set train.=1", "section.key=value")),
    Case("set with broken YAML", "train -S train.seed=[", ("--set train.seed=[", "YAML")),
    Case(
        "set below a number",
        "train -S train.seed.now=1",
        ("--set train.seed.now=1", "no keys below"),
    ),
    Case(
        "set below a null",
        "train -S train.masking.ratio=0.5",
        ("--set train.masking.ratio=0.5", "no keys below"),
    ),
    Case(
        "set of an unknown key",
        "train -S train.sed=1",
        ("train.sed", "did you mean train.seed?"),
    ),
    # data
    Case(
        "no data folder",
        "prepare",
        ("nowhere/day/images", "no such folder", "correct the path"),
        params(prepare={"source.root": "nowhere"}),
    ),
    Case(
        "no images in the folder",
        "prepare",
        ("photos/day/images", "no images"),
        lambda: [path.unlink() for path in (DAY / "images").iterdir()],
    ),
    Case(
        "truncated image",
        "prepare",
        ("photos/day/images/00001.png", "damaged", "fetch the file again"),
        lambda: cut_in_half(DAY / "images" / "00001.png"),
    ),
    Case(
        "empty image",
        "prepare",
        ("photos/day/images/00001.png", "not an image", "remove it"),
        lambda: (DAY / "images" / "00001.png").write_bytes(b""),
    ),
    Case(
        "text named like an image",
        "prepare",
        ("photos/day/images/00001.png", "not an image", "remove it"),
        lambda: (DAY / "images" / "00001.png").write_text("a picture of a street"),
    ),
    Case(
        "two bad files",
        "prepare",
        ("photos/day/images/00001.png", "1 more bad file"),
        lambda: [(DAY / "images" / f"0000{n}.png").write_bytes(b"") for n in (1, 3)],
    ),
    Case(
        "notes among the images",
        "prepare",
        ("photos/day/images/notes.txt", "not named like an image", "move it"),
        lambda: (DAY / "images" / "notes.txt").write_text("sunny"),
    ),
    Case(
        "label of another size",
        "prepare",
        ("photos/day/labels/00001.png", "128x32", "128x64", "exclude the image"),
        lambda: spoil_label(0, (32, 128)),
    ),
    Case(
        "label id outside the table",
        "prepare",
        ("photos/day/labels/00001.png", "200", "not in the class table", "correct the label"),
        lambda: spoil_label(200),
    ),
    Case(
        "truncated label",
        "prepare",
        ("photos/day/labels/00001.png", "damaged", "fetch the file again"),
        lambda: cut_in_half(DAY / "labels" / "00001.png"),
    ),
    Case(
        "image without label in the source",
        "prepare",
        ("photos/day/images/00001.png", "no label", "photos/day/labels/00001.png", "exclude"),
        lambda: (DAY / "labels" / "00001.png").unlink(),
    ),
    Case(
        "two images of one name",
        "prepare",
        ("00001.png", "00001.jpg", "same name", "rename or remove"),
        lambda: shutil.copy(DAY / "images" / "00002.png", DAY / "images" / "00001.jpg"),
    ),
    Case(
        "excluded image that there is not",
        "prepare",
        ("prepare.source.exclude", "day/images/9", "photos", "without suffix"),
        params(prepare={"source.exclude": ["day/images/9"]}),
    ),
    Case(
        "domains of other classes",
        "prepare",
        ("same classes", "source", "target"),
        params(
            prepare={
                "target": {
                    "kind": "drawn",
                    "root": "data/drawn",
                    "style": "dusk",
                    "seed": 2,
                    "width_px": 128,
                    "height_px": 64,
                    "fit_px": None,
                    "train": 2,
                    "val": 1,
                }
            }
        ),
    ),
    # the order of stages
    Case(
        "embed before prepare",
        "embed",
        ("data/manifest.parquet", "no manifest", "ssr prepare"),
        lambda: Path("data/manifest.parquet").unlink(),
    ),
    Case(
        "damaged manifest",
        "train",
        ("data/manifest.parquet", "damaged", "ssr prepare"),
        lambda: cut_in_half(Path("data/manifest.parquet")),
    ),
    Case(
        "image changed after prepare, then embed",
        "embed -S embed.seed=1",
        ("photos/day/images/00001.png", "has changed", "ssr prepare"),
        lambda: shutil.copy(DAY / "images" / "00002.png", DAY / "images" / "00001.png"),
    ),
    Case(
        "image changed after embed, then train",
        "train -S train.seed=1",
        ("photos/d", "has changed", "ssr prepare"),
        lambda: [
            shutil.copy(path.with_name("00007.png"), path)
            for path in sorted(Path("photos/dusk/images").iterdir())
            if path.name != "00007.png"
        ],
    ),
    Case(
        "image removed after embed, then train",
        "train -S train.seed=1",
        ("photos/dusk/images", "No such file", "ssr prepare"),
        lambda: shutil.rmtree("photos/dusk/images"),
    ),
    Case(
        "label changed after prepare, then evaluate",
        "evaluate",
        ("photos/dusk_val/labels/00012.png", "200", "ssr prepare"),
        lambda: Image.fromarray(np.full((64, 128), 200, np.uint8)).save(
            "photos/dusk_val/labels/00012.png"
        ),
    ),
    Case(
        "target given up after prepare, then evaluate",
        "evaluate",
        ("data/manifest.parquet", "target", "ssr prepare"),
        params(prepare={"target": None}),
    ),
    Case(
        "target given up after prepare, then embed",
        "embed",
        ("data/manifest.parquet", "target", "ssr prepare"),
        params(prepare={"target": None}),
    ),
    Case(
        "target given up after prepare, then train",
        "train",
        ("data/manifest.parquet", "target", "ssr prepare"),
        params(prepare={"target": None}),
    ),
    Case(
        "crop larger than prepare knew",
        "train -S train.crop_px=96",
        ("train.crop_px", "96", "ssr prepare"),
    ),
    # teacher and stores
    Case(
        "no teacher weights",
        "embed -S embed.weights=sam.pth",
        ("sam.pth", "no such weight file", "embed.weights"),
    ),
    Case(
        "teacher weights of another architecture",
        "embed -S embed.weights=sam.pth -S embed.architecture=vit_b",
        ("sam.pth", "tiny", "vit_b", "change one"),
        lambda: save_teacher("sam.pth"),
    ),
    Case(
        "teacher weights that are a picture",
        "embed -S embed.weights=photos/day/images/00000.png",
        ("photos/day/images/00000.png", "not a file of torch weights"),
    ),
    Case(
        "truncated teacher weights",
        "embed -S embed.weights=sam.pth",
        ("sam.pth", "damaged", "download it again"),
        lambda: (save_teacher("sam.pth"), cut_in_half(Path("sam.pth"))),
    ),
    Case(
        "official name, other content",
        "embed -S embed.weights=sam_vit_b_01ec64.pth -S embed.architecture=vit_b",
        ("sam_vit_b_01ec64.pth", "sha256", "download it again"),
        lambda: save_teacher("sam_vit_b_01ec64.pth"),
    ),
    Case(
        "student for a teacher",
        "embed -S embed.weights=runs/checkpoint.pt",
        ("runs/checkpoint.pt", "image_encoder", "checkpoint of SAM"),
    ),
    Case(
        "domain to embed that there is not",
        "embed -S embed.splits=[val] -S embed.domains=[source]",
        ("no val images of domain source", "embed.splits", "ssr prepare"),
    ),
    Case(
        "store folder is a file",
        "embed -S store.url=params.yaml",
        ("params.yaml", "store.url"),
    ),
    Case(
        "train before embed",
        "train",
        ("data/index.json", "no index", "ssr embed"),
        lambda: Path("data/index.json").unlink(),
    ),
    Case(
        "damaged index",
        "train",
        ("data/index.json", "no index of features", "ssr embed"),
        lambda: cut_in_half(Path("data/index.json")),
    ),
    Case(
        "store moved away",
        "train",
        ("data/features/source/", "no feature store", "ssr embed"),
        lambda: shutil.rmtree("data/features/source"),
    ),
    Case(
        "shard deleted",
        "train",
        ("shard 1 of stride8", "target/train/", "data/features/target/", "ssr embed"),
        lambda: shard("target", 1).unlink(),
    ),
    Case(
        "shard cut off",
        "train",
        ("shard 0 of stride8", "data/features/source/", "ssr embed"),
        lambda: cut_in_half(shard("source", 0)),
    ),
    Case(
        "ledger entry deleted",
        "train",
        ("shard 0 of stride8", "data/features/source/", "ssr embed"),
        lambda: (the_store("source") / "ledger/stride8/000000.json").unlink(),
    ),
    Case(
        "bits of a shard flipped",
        "train -S train.seed=1",
        ("data/features/target/", "damaged", "delete the shard file", "ssr embed"),
        lambda: [
            path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
            for path in (shard("target", 0), shard("target", 1))
        ],
    ),
    Case(
        "store's metadata edited",
        "train",
        ("zarr.json", "data/features/source/", "ssr embed"),
        lambda: (the_store("source") / "stride8" / "zarr.json").write_text("{}"),
    ),
    Case(
        "store of another format",
        "train",
        ("data/features/source/", "format 2", "ssr embed"),
        lambda: edit(the_store("source") / "zarr.json", '"format":1', '"format":2'),
    ),
    Case(
        "teacher's seed changed, no embed since",
        "train -S embed.seed=1",
        ("data/index.json", "another teacher", "ssr embed", "old values"),
    ),
    Case(
        "overlap changed, no embed since",
        "train -S embed.overlap=0.25",
        ("data/index.json", "another tiling", "ssr embed", "old values"),
    ),
    Case(
        "teacher weights missing at training",
        "train -S embed.weights=sam.pth",
        ("sam.pth", "no such weight file", "embed.weights"),
    ),
    Case(
        "level that is not stored",
        "train -S train.regularizer.levels=[stride16,stride8,stride8,stride8]",
        ("data/features/source/", "no stride16", "embed.levels", "ssr embed"),
    ),
    Case(
        "domain that is not stored",
        "train",
        ("data/index.json", "target", "embed.domains", "ssr embed"),
        lambda: assert_done("embed", "-S", "embed.domains=[source]"),
    ),
    # training
    Case(
        "rare class without enough pixels",
        "train -S train.rare_class_sampling.min_pixels=1000000",
        ("no image has more than 1000000 pixels", "train.rare_class_sampling.min_pixels"),
    ),
    Case(
        "no student to start from",
        "train -S train.init=nowhere",
        ("nowhere/config.json", "train.init"),
    ),
    Case(
        "student to start from of another head",
        "train -S train.init=runs/student -S train.student.head=mlp",
        ("train.init", "runs/student", "another architecture", "make them equal"),
    ),
    Case(
        "student to start from of another width",
        "train -S train.init=runs/student -S train.student.head_channels=8",
        ("train.init", "runs/student", "another architecture", "make them equal"),
    ),
    Case(
        "no backbone weights",
        "train -S train.student.weights=mit_b0.pth",
        ("mit_b0.pth", "does not exist", "train.student.weights"),
    ),
    Case(
        "no folder of backbone weights",
        "train -S train.student.weights=./mit",
        ("./mit", "train.student.weights", "Hugging Face"),
    ),
    Case(
        "backbone weights of another architecture",
        "train -S train.student.weights=sam.pth",
        ("sam.pth", "another architecture", "train.student"),
        lambda: save_teacher("sam.pth"),
    ),
    Case(
        "backbone weights that are a picture",
        "train -S train.student.weights=photo.pth",
        ("photo.pth", "damaged", "train.student.weights"),
        lambda: shutil.copy(DAY / "images" / "00000.png", "photo.pth"),
    ),
    Case(
        "damaged checkpoint",
        "train",
        ("runs/checkpoint.pt", "damaged", "delete it"),
        lambda: cut_in_half(Path("runs/checkpoint.pt")),
    ),
    Case(
        "thing class that there is not",
        "train -S train.feature_distance={weight: 0.005, classes: [unicorn], min_share: 0.75} "
        "-S train.student.weights=runs/student",
        ("train.feature_distance.classes", "unicorn", "its classes are sky, "),
    ),
    Case(
        "learning rate that explodes",
        "train -S train.optimizer.lr=1e30 -S train.seed=1",
        ("iteration", "not finite", "train.optimizer.lr", "runs/checkpoint.pt"),
    ),
    Case(
        "results folder is a file",
        "train --out params.yaml",
        ("params.yaml", "--out"),
    ),
    # evaluation
    Case(
        "evaluate before train",
        "evaluate --out runs/new",
        ("runs/new/student/config.json", "missing", "ssr train"),
    ),
    Case(
        "damaged student",
        "evaluate",
        ("runs/student/model.safetensors", "sha256", "train the student again"),
        lambda: cut_in_half(STUDENT / "model.safetensors"),
    ),
    Case(
        "student without weights",
        "evaluate",
        ("runs/student/model.safetensors", "missing", "train the student again"),
        lambda: (STUDENT / "model.safetensors").unlink(),
    ),
    Case(
        "student's card edited",
        "evaluate",
        ("runs/student/config.json", "no student of this project"),
        lambda: (STUDENT / "config.json").write_text("{}"),
    ),
    Case(
        "student of other classes",
        "evaluate",
        ("runs/student", "'sky'", "manifest"),
        lambda: edit(STUDENT / "config.json", '"sky"', '"heaven"'),
    ),
    Case(
        "split without labels",
        "evaluate -S evaluate.split=train",
        ("target/train", "has a label", "evaluate.split"),
    ),
    Case(
        "metrics before evaluate",
        "metrics --out runs/new",
        ("runs/new/metrics.json", "no evaluation", "ssr evaluate"),
    ),
    Case(
        "damaged metrics",
        "metrics",
        ("runs/metrics.json", "damaged", "ssr evaluate"),
        lambda: cut_in_half(Path("runs/metrics.json")),
    ),
    # looking
    Case("inspect of no folder", "inspect nowhere", ("nowhere", "no feature store", "ssr embed")),
    Case("inspect of another folder", "inspect photos", ("photos", "no feature store")),
    Case(
        "inspect of a damaged shard",
        "inspect --recompute STORE",
        ("c.0.0.0.0", "damaged", "delete it", "ssr embed"),
        lambda: edit_bytes(shard("source", 0)),
    ),
    # init
    Case("unknown preset", "init --preset drwan", ("drwan", "drawn, camvid-day-to-dusk")),
    Case("init over an edited file", "init --preset drawn", ("params.yaml", "edited", "--force")),
]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def edit_bytes(path: Path) -> None:
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


def assert_done(*command: str) -> None:
    assert ssr(*command).code == 0


def split_command(command: str) -> list[str]:
    return [
        str(the_store("source")) if word == "STORE" else word
        for word in command.replace(": ", ":\0").replace(", ", ",\0").split()
    ]
