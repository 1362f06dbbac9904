"""Image files listed by stage `prepare` itself, for faults that it has to notice."""

from stages.prepare import stage as prepare_stage
from stages.prepare.stage import PrepareConfig, PrepareResult
from tests.embed.world import World, silent
from tests.prepare.conftest import folder_config


def list_photos(world: World) -> PrepareResult:
    """List `images/photos` with their `images/labels`, cache included, into the world's records."""
    config = folder_config(
        world.folder / "images",
        train_images="photos",
        train_labels="labels",
        val_images=None,
        val_labels=None,
    )
    result = prepare_stage.run(
        PrepareConfig.model_validate(
            {"source": config, "target": None, "pad_to_px": 32, "on_bad_image": "fail"}
        ),
        out=world.folder / "manifest.parquet",
        cache=world.folder / "scan-cache",
        progress=silent,
    )
    world.records = {record.image_id: record for record in result.manifest.records}
    return result
