"""CamVid, 480x360 with 11 classes and void, one folder per split."""

from typing import Final

from stages.prepare.config import CamvidConfig, root_of
from stages.prepare.labels import CAMVID_11, train_id_table
from stages.prepare.sources.listing import Item, Listing, labelled_like

_VOID: Final = 11
_REMEDY: Final = (
    "root holds a folder for each split, named by `splits`, with images/*.jpg and labels/*.png of "
    "class ids; put them there or correct the path"
)


def scan(config: CamvidConfig) -> Listing:
    """List `<split folder>/images/*.jpg` with `<split folder>/labels/*.png`."""
    root = root_of(config)
    train, val = config.splits.train, config.splits.val
    items: tuple[Item, ...] = labelled_like(
        "train", root, f"{train}/images", f"{train}/labels", remedy=_REMEDY
    )
    if val is not None:
        items += labelled_like("val", root, f"{val}/images", f"{val}/labels", remedy=_REMEDY)
    return Listing(CAMVID_11, train_id_table(CAMVID_11, void=(_VOID,)), items)
