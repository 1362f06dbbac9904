"""Parameters of labelling from the store; `params.yaml` gives every value (section `label`)."""

from pydantic import Field

from stages.fields import Name, PositiveInt, Section


class LabelConfig(Section):
    """Section `label`, unused unless `train.self_training.labels` asks for the store's."""

    level: Name = Field(
        description="Level of the stores whose tokens are classified; one of `embed.levels`."
    )
    images: PositiveInt = Field(
        description="Most labelled images of source/train that the classifier learns from, evenly "
        "spread over them."
    )
