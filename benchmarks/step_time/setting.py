"""Settings that all arms of the benchmark share, and those that differ."""

from dataclasses import dataclass
from typing import Any, Final

from ruamel.yaml import YAML

from pipeline.presets import render
from stages.embed.teachers.sam_sizes import ARCHITECTURES, ArchitectureName
from stages.student.config import BackboneName
from stages.train.config import TrainConfig

ARMS: Final = {
    "a": "DAFormer",
    "a mic": "DAFormer with MIC",
    "b": "SSR from the store",
    "b mic": "SSR with MIC, from the store",
    "a hrda": "HRDA",
    "a hrda mic": "HRDA with MIC",
    "b hrda mic": "HRDA with SSR and MIC, from the store",
    "c": "SSR, official SAM in the loop",
    "c fused": "SSR, our SAM in the loop",
    "d": "SSR, features in memory",
    "p": "DAFormer, ported",
}
LEVEL: Final = "stride8"
MIC: Final = {"block_px": 32, "ratio": 0.7, "weight": 1.0}
HRDA: Final = {"detail_weight": 0.1, "attention_channels": 256, "margin_px": 0}


@dataclass(frozen=True)
class Setting:
    """The options that a step depends on; see `--help`."""

    student: BackboneName
    sam: ArchitectureName
    crop: int
    batch: int
    device: str
    precision: str
    compile: bool
    activation_checkpointing: bool
    threads: int | None
    workers: int

    @property
    def teacher_channels(self) -> int:
        """Channels of SAM's features."""
        return ARCHITECTURES[self.sam].channels


def reads_features(arm: str) -> bool:
    """Tell whether the samples of an arm have windows of features."""
    return arm[0] in "bd"


def configure(setting: Setting, arm: str) -> TrainConfig:
    """Give the published recipe to an arm, without what needs weights or statistics of GTA5."""
    train: dict[str, Any] = YAML(typ="safe").load(render("gta5-to-cityscapes", roots={}))["train"]
    ours = arm != "p"
    student = train["student"] | {"backbone": setting.student, "weights": "random"}
    if "hrda" in arm:
        student["hrda"] = HRDA | {"detail_px": setting.crop // 2}
    return TrainConfig.model_validate(
        train
        | {
            "batch_size": setting.batch,
            "crop_px": setting.crop,
            "student": student,
            "regularizer": train["regularizer"] | ({"on": []} if arm[0] in "ap" else {}),
            "masking": MIC if arm.endswith("mic") else None,
            "rare_class_sampling": None,
            "precision": setting.precision if ours else "float32",
            "compile": setting.compile and ours,
            "activation_checkpointing": setting.activation_checkpointing and ours,
            "threads": setting.threads,
            "workers": setting.workers,
        }
    )
