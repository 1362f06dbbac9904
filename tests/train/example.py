"""A small, complete training configuration for tests to vary."""

from copy import deepcopy
from typing import Any

from stages.train.config import TrainConfig

EXAMPLE: dict[str, Any] = {
    "seed": 0,
    "init": None,
    "iterations": 4,
    "batch_size": 2,
    "crop_px": 64,
    "crop_align_px": 32,
    "crop_max_class_share": 0.75,
    "flip_probability": 0.5,
    "student": {
        "backbone": "mit_tiny",
        "weights": "random",
        "norm_eps": 1e-6,
        "drop_path": 0.1,
        "head": "daformer",
        "head_channels": 16,
        "dropout": 0.1,
    },
    "regularizer": {
        "kind": "ssr",
        "on": ["source", "mixed"],
        "levels": ["stride8"] * 4,
    },
    "distill": None,
    "restyled": None,
    "self_training": {
        "start": 0,
        "ema_decay": 0.99,
        "labels": "ema",
        "weight": "share",
        "threshold": 0.5,
        "ignore_top_px": 2,
        "ignore_bottom_px": 8,
        "class_pool": "batch",
        "jitter_probability": 0.8,
        "jitter_strength": 0.2,
        "blur_probability": 0.5,
    },
    "masking": None,
    "rare_class_sampling": None,
    "feature_distance": None,
    "optimizer": {
        "lr": 1e-3,
        "head_lr_factor": 1.0,
        "regularizer_lr_factor": 1.0,
        "weight_decay": 0.01,
        "betas": [0.9, 0.999],
        "warmup_iterations": 2,
        "warmup_ratio": 1e-6,
        "power": 1.0,
    },
    "device": "cpu",
    "sync_batch_norm": False,
    "precision": "float32",
    "matmul": "highest",
    "cuda_graphs": "auto",
    "compile": False,
    "activation_checkpointing": False,
    "micro_batch_size": None,
    "threads": 1,
    "workers": 0,
    "prefetch": 2,
    "log_every": 2,
    "log_to": [],
    "checkpoint_every": 1,
    "validate_every": 0,
    "validate_on": "target",
}

EFFICIENTNET_LITE: dict[str, Any] = {
    "backbone": "efficientnet_lite0",
    "norm_eps": None,
    "drop_path": 0.0,
}
"""Keys of a student that is not a MiT."""

STILL: dict[str, Any] = {"drop_path": 0.0, "dropout": 0.0}
"""Keys of a student without noise."""

GUIDED: dict[str, Any] = {"kind": "guided", "student_drop": 0.5}
"""A regulariser that is not SSR's."""

MASKING: dict[str, Any] = {"block_px": 16, "ratio": 0.5, "weight": 1.0}

SEMASK: dict[str, Any] = {"window": 4, "attention": True, "aux_weight": 0.4}

HRDA: dict[str, Any] = {
    "detail_px": 32,
    "detail_weight": 0.1,
    "attention_channels": 16,
    "margin_px": 3,
}


def train_config(**changes: Any) -> TrainConfig:  # noqa: ANN401 - any value of a params file
    """The example with some keys changed; a dictionary changes keys of a section that is there."""
    tree = deepcopy(EXAMPLE)
    for key, value in changes.items():
        tree[key] = {**tree[key], **value} if isinstance(value, dict) and tree[key] else value
    return TrainConfig.model_validate(tree)
