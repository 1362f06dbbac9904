"""From a source's configuration to its listing, whatever its kind."""

from stages.prepare.config import (
    AcdcConfig,
    Bdd100kConfig,
    CamvidConfig,
    CityscapesConfig,
    DarkZurichConfig,
    DrawnConfig,
    FolderConfig,
    Gta5Config,
    MapillaryConfig,
    SourceConfig,
    SynthiaConfig,
)
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
from stages.prepare.datasets.listing import Listing, Progress


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
        case SynthiaConfig():
            return synthia.scan(config)
        case CityscapesConfig():
            return cityscapes.scan(config)
        case AcdcConfig():
            return acdc.scan(config)
        case DarkZurichConfig():
            return dark_zurich.scan(config)
        case Bdd100kConfig():
            return bdd100k.scan(config)
        case MapillaryConfig():
            return mapillary.scan(config)
        case FolderConfig():
            return folder.scan(config)
