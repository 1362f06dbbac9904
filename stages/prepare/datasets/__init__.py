"""The datasets: where images come from.

A new one is a module here with a `Config`, and a place in `SourceConfig`; the rest derives from it:
how it is listed, the terms in model cards, the class tables of `ssr import`, docs and schema.
"""

from collections.abc import Mapping
from typing import Annotated, Final, get_args

from pydantic import Field

from stages.prepare.datasets import (
    acdc,
    bdd100k,
    camvid,
    cityscapes,
    dark_zurich,
    drawn,
    folder,
    gta5,
    mapillary,
    synthia,
)
from stages.prepare.datasets.dataset import Dataset
from stages.prepare.labels import ClassTable

SourceConfig = Annotated[
    cityscapes.Config
    | camvid.Config
    | drawn.Config
    | gta5.Config
    | synthia.Config
    | acdc.Config
    | dark_zurich.Config
    | bdd100k.Config
    | mapillary.Config
    | folder.Config,
    Field(discriminator="kind"),
]
"""A section `prepare.source`, `prepare.target` or one of `evaluate.datasets`."""

DATASETS: Final[Mapping[str, type[Dataset]]] = {
    get_args(config.model_fields["kind"].annotation)[0]: config
    for config in get_args(get_args(SourceConfig)[0])
}
"""Kind -> what it is."""

CLASS_TABLES: Final[dict[str, ClassTable]] = {}
"""Tables of classes by the first kind that has them."""

for _kind, _config in DATASETS.items():
    if _config.class_table is not None and _config.class_table not in CLASS_TABLES.values():
        CLASS_TABLES[_kind] = _config.class_table
