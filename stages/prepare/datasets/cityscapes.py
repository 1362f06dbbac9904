"""Cityscapes, 2,975 + 500 frames of 2048x1024 with fine labels, as in the official archives."""

from typing import Final, get_args

from stages.prepare.config import CityscapesConfig, Split, root_of
from stages.prepare.datasets.frames import frames, label_code
from stages.prepare.datasets.listing import Listing
from stages.prepare.labels import CITYSCAPES_19

_REMEDY: Final = (
    "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (cityscapes-dataset.com) "
    "into root"
)


def scan(config: CityscapesConfig) -> Listing:
    """List `leftImg8bit/{train,val}/<city>/` with `gtFine/{train,val}/<city>/`.

    Labels are the labelIds that the archive holds; where it has none of them, the labelTrainIds
    that cityscapesscripts make.
    """
    root = root_of(config)
    kind, table = label_code(root, "gtFine/*/*/*_gtFine_")
    parts = [
        frames(
            split,
            root,
            (f"leftImg8bit/{split}", "_leftImg8bit"),
            (f"gtFine/{split}", f"_gtFine_{kind}"),
            remedy=_REMEDY,
        )
        for split in get_args(Split)
    ]
    return Listing.of(CITYSCAPES_19, table, parts)
