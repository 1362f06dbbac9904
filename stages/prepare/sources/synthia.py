"""SYNTHIA-RAND-CITYSCAPES, 9,400 renderings of 1280x760; the labels are 16-bit PNGs.

Their red channel is the class, the others tell instances apart. `pixels.decode_label` reads that.
"""

from pathlib import Path
from typing import Final

from stages.prepare.config import SynthiaConfig, root_of
from stages.prepare.labels import CITYSCAPES_19, IGNORE, LabelTable, train_id_table
from stages.prepare.sources.listing import Item, Listing, images_under, require_folder

_REMEDY: Final = (
    "unpack SYNTHIA-RAND-CITYSCAPES (synthia-dataset.net) so that root holds RGB and GT/LABELS"
)
_TRAIN_IDS: Final = "_labelTrainIds.png"

# Classes in the order of their ids, from the README of the dataset, and what DAFormer's conversion
# makes of them. Terrain, truck and train have an id, but no image shows them. Lane markings have no
# class there, though other code calls them road.
_CLASSES: Final = (
    ("void", None),
    ("sky", "sky"),
    ("building", "building"),
    ("road", "road"),
    ("sidewalk", "sidewalk"),
    ("fence", "fence"),
    ("vegetation", "vegetation"),
    ("pole", "pole"),
    ("car", "car"),
    ("traffic sign", "traffic sign"),
    ("pedestrian", "person"),
    ("bicycle", "bicycle"),
    ("motorcycle", "motorcycle"),
    ("parking slot", None),
    ("road work", None),
    ("traffic light", "traffic light"),
    ("terrain", "terrain"),
    ("rider", "rider"),
    ("truck", "truck"),
    ("bus", "bus"),
    ("train", "train"),
    ("wall", "wall"),
    ("lane marking", None),
)

SYNTHIA_IDS: Final = LabelTable(
    {
        stored: IGNORE if name is None else CITYSCAPES_19.names.index(name)
        for stored, (_, name) in enumerate(_CLASSES)
    }
)
"""SYNTHIA's ids to the 19 classes of Cityscapes."""


def scan(config: SynthiaConfig) -> Listing:
    """List `RGB/*.png` with `GT/LABELS/*.png`, all for training.

    Where none of these is there, labels are the `*_labelTrainIds.png` that DAFormer's and
    MMSegmentation's conversions write beside them.
    """
    root = root_of(config)
    labels = root / "GT" / "LABELS"
    images = images_under(root, "RGB", _REMEDY)
    require_folder(labels, _REMEDY)
    converted = _only_converted(labels)
    ending, table = (
        (_TRAIN_IDS, train_id_table(CITYSCAPES_19)) if converted else (".png", SYNTHIA_IDS)
    )
    items = [
        Item("train", image, f"GT/LABELS/{image.removeprefix('RGB/').rpartition('.')[0]}{ending}")
        for image in images
    ]
    return Listing(CITYSCAPES_19, table, tuple(items))


def _only_converted(labels: Path) -> bool:
    names = [path.name for path in labels.glob("*.png")]
    return bool(names) and all(name.endswith(_TRAIN_IDS) for name in names)
