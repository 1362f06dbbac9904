"""Cityscapes, 2,975 + 500 frames of 2048x1024 with fine labels, as in the official archives."""

from pathlib import Path
from typing import Final, get_args

from stages.prepare.config import CityscapesConfig, Split, root_of
from stages.prepare.labels import CITYSCAPES_19, CITYSCAPES_IDS, train_id_table
from stages.prepare.sources.listing import Item, Listing, require_folder
from store.errors import DataError

_IMAGE: Final = "_leftImg8bit.png"
_LABEL_IDS: Final = "_gtFine_labelIds.png"
_TRAIN_IDS: Final = "_gtFine_labelTrainIds.png"


def scan(config: CityscapesConfig) -> Listing:
    """List `leftImg8bit/{train,val}/<city>/` with `gtFine/{train,val}/<city>/`.

    Labels are the labelIds that the archive holds; where it has none of them, the labelTrainIds
    that cityscapesscripts make.
    """
    root = root_of(config)
    train_ids = not any(root.glob(f"gtFine/*/*/*{_LABEL_IDS}")) and any(
        root.glob(f"gtFine/*/*/*{_TRAIN_IDS}")
    )
    suffix, table = (
        (_TRAIN_IDS, train_id_table(CITYSCAPES_19)) if train_ids else (_LABEL_IDS, CITYSCAPES_IDS)
    )
    items = [item for split in get_args(Split) for item in _split(root, split, suffix)]
    return Listing(CITYSCAPES_19, table, tuple(items))


def _split(root: Path, split: Split, label_suffix: str) -> list[Item]:
    place = root / "leftImg8bit" / split
    require_folder(place)
    frames = sorted(place.glob(f"*/*{_IMAGE}"))
    if not frames:
        raise DataError(f"{place}: holds no */*{_IMAGE}: unpack leftImg8bit_trainvaltest.zip here")
    return [
        Item(
            split=split,
            image=frame.relative_to(root).as_posix(),
            label=f"gtFine/{split}/{frame.parent.name}/"
            f"{frame.name.removesuffix(_IMAGE)}{label_suffix}",
        )
        for frame in frames
    ]
