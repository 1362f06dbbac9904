"""Which of Cityscapes' 19 classes a class of Mapillary is, by its name.

There is no official mapping; these are the rules of Rein's evaluation (arXiv 2312.04265).
"""

import re
from typing import Final

from stages.prepare.labels import CITYSCAPES_19, IGNORE

# The first rule that has a part of the name decides; a class's own name comes before all.
_PARTS: Final = (
    ("traffic sign", r"trafficsign|front|back"),
    ("train", r"onrail"),
    ("rider", r"cyclist|rider"),
    ("pole", r"pole|streetlight"),
    ("sidewalk", r"curb|pedestrianarea"),
    ("road", r"crosswalkplain|parking|bikelane|servicelane|lanemarking"),
)


def train_id_of(name: str) -> int:
    """Return the train id of a class name, IGNORE where no rule knows it."""
    plain = re.sub("[ -]", "", name.lower())
    for train_id, own in enumerate(CITYSCAPES_19.names):
        if plain == own.replace(" ", ""):
            return train_id
    found = (own for own, parts in _PARTS if re.search(parts, plain))
    first = next(found, None)
    return IGNORE if first is None else CITYSCAPES_19.names.index(first)
