"""CamVid, 480x360 with 11 classes and void, one folder per split."""

from typing import Final

from stages.prepare.config import CamvidConfig, Split, root_of
from stages.prepare.datasets.listing import Listing, labelled_like
from stages.prepare.labels import CAMVID_11, train_id_table

_VOID: Final = 11
_REMEDY: Final = (
    "root holds a folder for each split, named by `splits`, with images/*.jpg and labels/*.png of "
    "class ids; put them there or correct the path"
)


def scan(config: CamvidConfig) -> Listing:
    """List `<split folder>/images/*.jpg` with `<split folder>/labels/*.png`."""
    root = root_of(config)
    folders: dict[Split, str | None] = {"train": config.splits.train, "val": config.splits.val}
    parts = [
        labelled_like(split, root, f"{folder}/images", f"{folder}/labels", remedy=_REMEDY)
        for split, folder in folders.items()
        if folder is not None
    ]
    return Listing.of(CAMVID_11, train_id_table(CAMVID_11, void=(_VOID,)), parts)
