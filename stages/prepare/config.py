"""The `prepare` section of params.yaml."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from stages.fields import Domain, Section, WindowPx
from stages.prepare.datasets import SourceConfig


class PrepareConfig(Section):
    """What to train on: a labelled source domain and the target domain to adapt to."""

    source: SourceConfig = Field(description="The labelled domain.")
    target: SourceConfig | None = Field(
        description="The domain to adapt to, unlabelled in training but for `labelled` images; "
        "null for source only."
    )

    pad_to_px: WindowPx = Field(
        description="Side up to which smaller images are padded: `train.crop_px`; with more, some "
        "crops show padding alone."
    )
    on_bad_image: Literal["fail", "skip"] = Field(
        description="Images or labels that cannot be read end `prepare`, or are left out and "
        "listed. Those that change afterwards end whatever reads them."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for domain, config in self.domains.items():
            config.require_training_data(domain)
        if self.source.labelled:
            raise ValueError(
                "source.labelled is a key of the target, as all of the source is labelled: "
                "remove it"
            )
        return self

    @property
    def domains(self) -> dict[Domain, SourceConfig]:
        """The domains that there are, source first."""
        if self.target is None:
            return {"source": self.source}
        return {"source": self.source, "target": self.target}

    @property
    def roots(self) -> dict[Domain, Path]:
        """Where the paths of the manifest begin, per domain; `~` is expanded."""
        return {domain: config.folder for domain, config in self.domains.items()}
