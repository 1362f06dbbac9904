"""The drawn world: images that the package `examples.drawn` draws when they are first listed."""

from stages.prepare.config import DrawnConfig
from stages.prepare.datasets.listing import Listing, Progress
from stages.prepare.labels import DRAWN, train_id_table
from store.errors import ConfigError


def scan(config: DrawnConfig, *, progress: Progress) -> Listing:
    """List the images of the world, drawing those that are not there yet.

    Raises:
        ConfigError: The package is not there; it comes with a checkout of the repository.
    """
    try:
        from examples.drawn import folders
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"kind drawn: there is no package {error.name}, which draws the images: install this "
            "project from a checkout (`pip install -e .`)"
        ) from error
    return Listing(DRAWN, train_id_table(DRAWN), folders.fill(config, progress=progress))
