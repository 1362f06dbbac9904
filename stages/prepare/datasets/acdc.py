"""ACDC, 4,006 frames of 1920x1080 in fog, by night, in rain and snow (acdc.vision.ee.ethz.ch).

Without its reference frames in clear weather and its test split, whose labels are not public.
Label ids are those of Cityscapes, by the authors' own statement.
"""

from typing import Final, get_args

from stages.prepare.config import AcdcConfig, Split, root_of
from stages.prepare.datasets.frames import frames, label_code
from stages.prepare.datasets.listing import Listing
from stages.prepare.labels import CITYSCAPES_19

_REMEDY: Final = (
    "unpack rgb_anon_trainvaltest.zip and gt_trainval.zip (acdc.vision.ee.ethz.ch) into root, and "
    "leave their folders as they are"
)


def scan(config: AcdcConfig) -> Listing:
    """List `rgb_anon/<condition>/{train,val}/<drive>/` with the same folders in `gt`.

    Labels are labelIds; where there are none of them, labelTrainIds.
    """
    root = root_of(config)
    kind, table = label_code(root, "gt/*/*/*/*_gt_")
    parts = [
        frames(
            split,
            root,
            (f"rgb_anon/{condition}/{split}", "_rgb_anon"),
            (f"gt/{condition}/{split}", f"_gt_{kind}"),
            remedy=_REMEDY,
        )
        for split in get_args(Split)
        for condition in config.conditions
    ]
    return Listing.of(CITYSCAPES_19, table, parts)
