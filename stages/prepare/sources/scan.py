"""From a source's configuration to its listing, whatever its kind."""

from stages.prepare.config import (
    CamvidConfig,
    CityscapesConfig,
    DrawnConfig,
    FolderConfig,
    Gta5Config,
    SourceConfig,
)
from stages.prepare.sources import camvid, cityscapes, drawn, folder, gta5
from stages.prepare.sources.listing import Listing, Progress


def scan(config: SourceConfig, *, progress: Progress) -> Listing:
    """List the images of a dataset; only `drawn` writes any.

    Raises:
        DataError: Folders or images are missing.
    """
    match config:
        case DrawnConfig():
            return drawn.scan(config, progress=progress)
        case CamvidConfig():
            return camvid.scan(config)
        case Gta5Config():
            return gta5.scan(config)
        case CityscapesConfig():
            return cityscapes.scan(config)
        case FolderConfig():
            return folder.scan(config)
