"""BDD100K's 10k images of 1280x720, 7,000 + 1,000 of them with masks of train ids."""

from typing import Final, get_args

from stages.prepare.config import Bdd100kConfig, Split, root_of
from stages.prepare.datasets.listing import Listing, labelled_like
from stages.prepare.labels import CITYSCAPES_19, train_id_table

_REMEDY: Final = (
    "unpack `10K Images` and `Semantic Segmentation` of BDD100K (bdd-data.berkeley.edu) so that "
    "root holds images/10k and labels/sem_seg"
)


def scan(config: Bdd100kConfig) -> Listing:
    """List `images/10k/{train,val}/*.jpg` with `labels/sem_seg/masks/{train,val}/*.png`."""
    root = root_of(config)
    parts = [
        labelled_like(
            split,
            root,
            f"images/10k/{split}",
            f"labels/sem_seg/masks/{split}",
            remedy=_REMEDY,
        )
        for split in get_args(Split)
    ]
    return Listing.of(CITYSCAPES_19, train_id_table(CITYSCAPES_19), parts)
