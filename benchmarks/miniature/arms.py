"""The arms of the experiment: a recipe, whose features it reads, and for how long."""

import json
from typing import Final, Literal, NamedTuple

from benchmarks.feeds import FeedName

World = Literal["drawn", "untrained", "int8", "oracle", "enlarged"]
"""What is trained on: images with the features of the drawn world's teacher, of one with random
weights, or of the former in 8 bits; the target itself with its labels; or images without features,
enlarged twice, as this teacher saw them when it learnt."""

WARM: Final = "warm start"
BASELINE: Final = "DAFormer"
EQUAL_TIME: Final = "DAFormer, guided's time"
"""Has as many steps as take the CPU time of `guided`."""
GUIDED: Final = "guided"
TIMED: Final = (BASELINE, GUIDED)
"""Arms whose steps are timed beforehand."""


class Arm(NamedTuple):
    """One arm.

    Attributes:
        recipe: One of `pipeline.presets.ARMS`.
        world: What it is trained on.
        feed: Where its teacher's features come from.
        changes: Further values of parameters.
    """

    recipe: str
    world: World = "drawn"
    feed: FeedName = "stored"
    changes: tuple[str, ...] = ()


ARMS: Final[dict[str, Arm]] = {
    "source-only": Arm("source-only"),
    BASELINE: Arm("daformer"),
    EQUAL_TIME: Arm("daformer"),
    "SSR": Arm("ssr"),
    "SSR, online": Arm("ssr", feed="online"),
    "SSR, untrained": Arm("ssr", world="untrained"),
    "SSR, shuffled": Arm("ssr", feed="shuffled"),
    GUIDED: Arm("guided"),
    "guided, online": Arm("guided", feed="online"),
    "guided, untrained": Arm("guided", world="untrained"),
    "guided, shuffled": Arm("guided", feed="shuffled"),
    "guided, int8": Arm("guided", world="int8"),
    "oracle": Arm("source-only", world="oracle"),
}
"""Name in the tables -> arm; all of a seed start from one source-only student."""

_WHOLE_TILES: Final = ("prepare.pad_to_px=128", "train.crop_px=128")
"""Crops as large as the tiles that the store is made of: both ways show the teacher as much."""

_STATISTICS: Final = "{kind: statistics, strength: 1, octaves: 5, max_gain: 2}"


def restyled(
    mixer: str = _STATISTICS,
    styles: str = "target",
    target: str = "dusk",
    recipe: str = "source-only",
) -> Arm:
    """Return an arm of which half the source crops are restyled, as the source or as a target.

    Of another target than dusk no features are stored.
    """
    return Arm(
        recipe,
        changes=(
            f"restyle={{mixer: {mixer}, styles: {styles}, draws: 1, splits: [train], seed: 0}}",
            "train.restyled={probability: 0.5, features: clean}",
            *(() if target == "dusk" else (f"prepare.target.style={target}", "embed.domains=[]")),
        ),
    )


FURTHER: Final[dict[str, Arm]] = {
    "SSR, fusion lr x 10": Arm("ssr", changes=("train.optimizer.regularizer_lr_factor=10",)),
    "guided + MIC": Arm("guided-mic"),
    "guided, source first": Arm("guided", changes=("train.self_training.start=150",)),
    "guided, fusion lr x 1": Arm("guided", changes=("train.optimizer.regularizer_lr_factor=1",)),
    "DAFormer + MIC": Arm("daformer-mic"),
    "distil-first": Arm("distil-first"),
    "distil-first, untrained": Arm("distil-first", world="untrained"),
    "labels of the store": Arm("store-labels"),
    "DAFormer + SeMask": Arm("semask"),
    "DAFormer + SeMask's maps": Arm("semask", changes=("train.student.semask.attention=false",)),
    "SSR + SeMask": Arm("ssr-semask"),
    "SSR + rein-cached": Arm("rein-cached"),
    "restyled, statistics": restyled(),
    "restyled, statistics of the source": restyled(styles="source"),
    "restyled, statistics of the night": restyled(target="night"),
    "restyled, fourier": restyled("{kind: fourier, strength: 1, band: 0.01}"),
    "restyled, color": restyled("{kind: color, strength: 1}"),
    "restyled, DAFormer": restyled(recipe="daformer"),
    "restyled, guided": restyled(recipe="guided"),
    "restyled, jitter": restyled("{kind: jitter, strength: 0.75}", styles="source"),
    "guided, 128 px": Arm("guided", changes=_WHOLE_TILES),
    "guided, online, 128 px": Arm("guided", feed="online", changes=_WHOLE_TILES),
}
"""Arms beside the experiment, to be asked for by name."""

TILE_PX: Final = 256
"""Side of what the drawn world's teacher sees, and of its position code's images."""


def _rein(tune: str, rank: int, *changes: str) -> Arm:
    rein = {"from_block": 0, "tokens": 20, "rank": rank, "native_px": TILE_PX, "tune": tune}
    return Arm(
        "source-only",
        world="enlarged",
        changes=(
            *("train.student.backbone=rein_vfm", "train.student.norm_eps=null"),
            f"train.student.rein={json.dumps(rein)}",
            *(f"prepare.pad_to_px={TILE_PX}", f"train.crop_px={TILE_PX}"),
            f"evaluate.window_px={TILE_PX}",
            *changes,
        ),
    )


FROM_NOTHING: Final[dict[str, Arm]] = {
    "MiT, source-only, as many steps": Arm("source-only"),
    "rein, real": _rein("tokens", 4),
    "rein, real, frozen": _rein("none", 4),
    "rein, real, LoRA": _rein("lora", 13),  # 19,968 weights; tokens have 20,481
    "rein, real, full": _rein(
        "all", 4, "train.optimizer.lr=1e-4", "train.optimizer.head_lr_factor=10"
    ),
}
"""Rein in the drawn world's teacher, its controls, and a MiT: each trains from random weights, but
for the teacher's, as many steps as the start and an arm together."""

ALL_ARMS: Final = ARMS | FURTHER | FROM_NOTHING


def folder_of(arm: str) -> str:
    """Name the folder of an arm's run."""
    return arm.replace(", ", "-").replace(" + ", "-").replace("'", "").replace(" ", "-").lower()
