"""A page of restyled images: content, style and what became of them."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from stages.fields import Domain
from stages.prepare.manifest import Manifest
from stages.prepare.pixels import read_raw
from stages.prepare.restyled import Restyled

_ROWS, _PANEL_PX, _GAP_PX = 8, 360, 4


def contact_sheet(
    restyled: Restyled, manifest: Manifest, roots: Mapping[Domain, Path]
) -> Image.Image:
    """Draw some images in rows of content | style | restyled.

    Raises:
        DataError: An image is missing or changed.
    """
    records = {record.image_id: record for record in manifest.records}
    made = restyled.manifest.records
    rows = []
    for record in made[:: -(-len(made) // _ROWS)]:
        noted = restyled.noted["images"][record.image_id]
        shown = (records[noted["content"]], records[noted["style"]])
        images = [read_raw(each, roots[each.domain]) for each in shown]
        images.append(read_raw(record, restyled.root))
        panels = [Image.fromarray(image) for image in images]
        rows.append(
            [p.resize((_PANEL_PX, max(1, round(p.height * _PANEL_PX / p.width)))) for p in panels]
        )
    height = sum(max(panel.height for panel in row) + _GAP_PX for row in rows)
    sheet = Image.new("RGB", (3 * (_PANEL_PX + _GAP_PX), height), (255, 255, 255))
    top = 0
    for row in rows:
        for column, panel in enumerate(row):
            sheet.paste(panel, (column * (_PANEL_PX + _GAP_PX), top))
        top += max(panel.height for panel in row) + _GAP_PX
    return sheet
