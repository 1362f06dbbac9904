"""BDD100K's 10k images of 1280x720, 7,000 + 1,000 of them with masks of train ids."""

from typing import ClassVar, Literal, get_args

from pydantic import Field

from stages.fields import Split
from stages.prepare.datasets.dataset import FileDataset, Listing, Progress
from stages.prepare.labels import CITYSCAPES_19, train_id_table


class Config(FileDataset):
    """BDD100K's 10k images: `images/10k/{train,val}` and `labels/sem_seg/masks/{train,val}`."""

    terms: ClassVar = "BDD100K, for education and research by its own terms"
    class_table: ClassVar = CITYSCAPES_19
    remedy: ClassVar = (
        "unpack `10K Images` and `Semantic Segmentation` of BDD100K (bdd-data.berkeley.edu) so "
        "that root holds images/10k and labels/sem_seg"
    )

    kind: Literal["bdd100k"] = Field(description="Which dataset this is.")

    def scan(self, progress: Progress) -> Listing:
        """List `images/10k/{train,val}/*.jpg` with `labels/sem_seg/masks/{train,val}/*.png`."""
        listing = Listing(CITYSCAPES_19, train_id_table(CITYSCAPES_19))
        for split in get_args(Split):
            self.pair(listing, split, f"images/10k/{split}", f"labels/sem_seg/masks/{split}")
        return listing
