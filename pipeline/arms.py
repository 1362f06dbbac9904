"""Arms of a comparison: keys of section `train` in which runs differ, and in nothing else.

The MiT, the crops and their grid, rare class sampling, optimiser and schedule are the preset's in
all arms. MIC has an arm of its own beside each method with self-training: official SSR has it in
one of its two configs (spec section 5.1 and quirk 16).
"""

from collections.abc import Mapping
from typing import Final

from store.errors import ConfigError

_OFF: Final = {"regularizer.on": "[]"}
# Ours, no published method: see `stages/train/regularizers/guided.py`.
_GUIDED: Final = {
    "regularizer.kind": "guided",
    "regularizer.student_drop": "0.5",
    "optimizer.regularizer_lr_factor": "3.0",
}
_MIC: Final = {"masking": "{block_px: 32, ratio: 0.7, weight: 1.0}"}

ARMS: Final[Mapping[str, Mapping[str, str]]] = {
    "source-only": {
        **_OFF,
        "self_training": "null",
        "masking": "null",
        "feature_distance": "null",
    },
    "daformer": _OFF,
    "daformer-mic": _OFF | _MIC,
    "ssr": {},
    "ssr-mic": _MIC,
    "guided": _GUIDED,
    "guided-mic": _GUIDED | _MIC,
}
"""Name -> key below `train` -> its value as YAML; what is not named is as the preset has it."""


def changes_of(arm: str) -> Mapping[str, str]:
    """Return in what an arm differs from the presets, which are SSR.

    Raises:
        ConfigError: If there is no such arm.
    """
    if arm not in ARMS:
        raise ConfigError(f"there is no arm {arm}; the arms are {', '.join(ARMS)}")
    return ARMS[arm]


def needs_target(arm: str) -> bool:
    """Tell whether an arm trains on a target even where the preset does not.

    Raises:
        ConfigError: If there is no such arm.
    """
    changes = changes_of(arm)
    return changes.get("masking", "null") != "null" or "regularizer.kind" in changes


def overrides_of(arm: str) -> tuple[str, ...]:
    """Return the changes of an arm as `-S` takes them, for the params of a preset.

    Raises:
        ConfigError: If there is no such arm.
    """
    return tuple(f"train.{key}={value}" for key, value in changes_of(arm).items())
