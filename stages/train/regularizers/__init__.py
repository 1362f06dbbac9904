"""The regularisers: how teacher features take part in training.

A new one is a module here with a `Config`, and a place in `RegularizerConfig`. The module of the
`Config` imports no torch; `Config.build` imports the network.
"""

from typing import Annotated, get_args

from pydantic import Field

from stages.train.regularizers import guided, ssr
from stages.train.regularizers.config import Regularization

RegularizerConfig = Annotated[ssr.Config | guided.Config, Field(discriminator="kind")]
"""Section `train.regularizer`: keys of the kind that it names, and none of another."""


def summary_of(kind: str) -> str:
    """Return what a model card says of a student that was trained with this kind."""
    configs: dict[str, type[Regularization]] = {
        get_args(config.model_fields["kind"].annotation)[0]: config
        for config in get_args(get_args(RegularizerConfig)[0])
    }
    return configs[kind].summary
