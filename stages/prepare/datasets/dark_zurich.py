"""Dark Zurich, frames of 1920x1080 by day, at twilight and by night; 50 of the night have labels.

Without its test split, whose labels are not public. Label ids are those of Cityscapes.
"""

from typing import Final

from stages.prepare.config import DarkZurichConfig, root_of
from stages.prepare.datasets.frames import frames, label_code
from stages.prepare.datasets.listing import Listing
from stages.prepare.labels import CITYSCAPES_19

_IMAGE: Final = "_rgb_anon"
_REMEDY: Final = (
    "unpack Dark_Zurich_train_anon.zip and Dark_Zurich_val_anon.zip "
    "(trace.ethz.ch/publications/2019/GCMA_UIoU) into root"
)


def scan(config: DarkZurichConfig) -> Listing:
    """List `rgb_anon/train/<time>/<drive>/`, and `rgb_anon/val/night/` with `gt/val/night/`.

    Labels are labelIds; where there are none of them, labelTrainIds.
    """
    root = root_of(config)
    kind, table = label_code(root, "gt/val/night/*/*_gt_")
    train = [
        frames("train", root, (f"rgb_anon/train/{time}", _IMAGE), None, remedy=_REMEDY)
        for time in config.train_times
    ]
    val = frames(
        "val",
        root,
        ("rgb_anon/val/night", _IMAGE),
        ("gt/val/night", f"_gt_{kind}"),
        remedy=_REMEDY,
    )
    return Listing.of(CITYSCAPES_19, table, [*train, val])
