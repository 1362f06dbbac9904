"""The params with the files that they are about: what is there is what they ask for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from pipeline import INDEX, MANIFEST
from pipeline.params import Params, load_params
from stages.embed import stage as embed_stage
from stages.embed.stage import DomainResult, Progress, Step
from stages.embed.stores import PlannedStore, kept_store, planned_store, require_provenance
from stages.fields import Domain
from stages.label import stage as label_stage
from stages.prepare.manifest import Manifest
from stages.prepare.pixels import read_raw
from stages.prepare.restyled import Restyled
from stages.restyle import stage as restyle_stage
from stages.train.workspace import Workspace
from store import verify
from store.errors import ConfigError, DataError
from store.files import Url, join
from store.index import Index
from store.lease import WHOLE, Part
from store.spec import upright


@dataclass(frozen=True)
class Project:
    """Params, and the folder of the manifest, the indexes and the restyled images."""

    params: Params
    data: Path = MANIFEST.parent

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> "Project":
        """Read a params file; as `load_params`."""
        return cls(load_params(path, overrides))

    @property
    def workspace(self) -> Workspace:
        """Where everything is."""
        stores, roots = self.params.store.location, self.params.prepare.roots
        return Workspace(self.data / MANIFEST.name, self.data / INDEX.name, stores, roots)

    @cached_property
    def manifest(self) -> Manifest:
        """The images; of the datasets that section `prepare` names, wherever their folders lie.

        Raises:
            DataError: If there is no manifest, or it is of other domains or datasets.
        """
        path, prepare = self.workspace.manifest, self.params.prepare
        manifest = Manifest.read(path)
        found, named = {record.domain for record in manifest.records}, set(prepare.domains)
        if found != named:
            raise DataError(
                f"{path}: lists {' and '.join(sorted(found))} images, but section prepare names "
                f"{' and '.join(sorted(named))}; run `ssr prepare`"
            )
        for domain, source in prepare.domains.items():
            listed, wanted = manifest.sources.get(domain, {}), source.identity
            changed = [key for key in {**wanted, **listed} if wanted.get(key) != listed.get(key)]
            if changed:
                raise DataError(
                    f"{path}: was made with another prepare.{domain}.{changed[0]}; run "
                    "`ssr prepare`, or put the old value back"
                )
        return manifest

    @cached_property
    def images_to_embed(self) -> Manifest:
        """The manifest, with the restyled images if they are embedded.

        Raises:
            DataError: As `manifest`; or restyled images are missing, or of other settings.
        """
        if "restyled" not in self.params.embed.domains:
            return self.manifest
        self.require_current_restyled()
        place = self.workspace
        return Restyled.read(place.restyled, of=place.manifest).beside(self.manifest)

    def require_current_restyled(self) -> None:
        """Refuse restyled images that there are none of, or of other images or settings."""
        config, place = self.params.restyle, self.workspace
        assert config is not None, "else the params that read them would be refused"
        restyle_stage.require_current_restyled(
            config, manifest_path=place.manifest, path=place.restyled
        )

    def require_current_stores(self) -> None:
        """Refuse to train from features of another teacher or preprocessing than the params name.

        Raises:
            StoreError: If there is no index, or it names such stores; see `require_provenance`.
        """
        if not self.params.read_domains:
            return
        path, projection = self.workspace.index, self.params.store.projection
        for domain, entry in Index.read(path).stores.items():
            where = f"{path}: the {domain} store"
            require_provenance(self.params.embed, projection, entry.provenance, where=where)

    def require_current_inputs(self) -> None:
        """Refuse to train from images, features or labels that the params do not ask for.

        Raises:
            DataError: If there is no manifest, or restyled images are missing; or they are others.
            StoreError: If features or labels are missing, or were made from others.
        """
        place, label = self.workspace, self.params.wanted_label
        self.manifest  # noqa: B018 - requires a current one
        if self.params.reads_restyled:
            self.require_current_restyled()
        self.require_current_stores()
        if label is not None:
            label_stage.require_current_labels(
                label, manifest_path=place.manifest, index_path=place.index
            )

    def restyle(self, progress: Progress, *, part: Part = WHOLE) -> restyle_stage.RestyleResult:
        """Restyle the source, if the params say so; see `stages.restyle.stage.run`."""
        if self.params.restyle is not None:
            self.manifest  # noqa: B018 - requires a current one
        return restyle_stage.run(
            self.params.restyle,
            manifest_path=self.workspace.manifest,
            roots=self.workspace.roots,
            out=self.workspace.restyled,
            progress=progress,
            part=part,
        )

    def embed(
        self, progress: Progress, *, step: Step = "all", images: Manifest | None = None
    ) -> dict[Domain, DomainResult]:
        """Run stage one, perhaps on other images; see `stages.embed.stage.run`."""
        store = self.params.store
        return embed_stage.run(
            self.params.embed,
            manifest=images or self.images_to_embed,
            roots=self._roots,
            store_url=store.location,
            shard_images=store.shard_images,
            codec=store.codec,
            index_path=self.workspace.index,
            progress=progress,
            step=step,
            projection=store.projection,
        )

    @property
    def _roots(self) -> dict[Domain, Path]:
        return {**self.workspace.roots, "restyled": self.workspace.restyled.with_suffix("")}

    def label(self, progress: Progress) -> label_stage.LabelResult:
        """Label the target, if the params say so; see `stages.label.stage.run`."""
        if self.params.wanted_label is not None:
            self.manifest  # noqa: B018 - requires a current one
            self.require_current_stores()
        return label_stage.run(
            self.params.wanted_label,
            manifest_path=self.workspace.manifest,
            roots=self.workspace.roots,
            stores=self.workspace.stores,
            index_path=self.workspace.index,
            shard_images=self.params.store.shard_images,
            progress=progress,
        )

    def store_prefixes(self, progress: Progress, *, step: Step = "all") -> int | None:
        """Store the prefixes that training asks for.

        Returns:
            How many views were stored now; None if training asks for none.

        Raises:
            StoreError: Some are missing at the step `finalise`.
        """
        train = self.params.train
        if not train.reads_prefixes:
            return None
        from stages.train.prefix import open_prefixes, store_prefixes  # torch

        if step == "finalise":
            open_prefixes(train, self.workspace.stores, self.manifest)
            return 0
        return store_prefixes(
            train,
            manifest=self.manifest,
            roots=self.workspace.roots,
            stores=self.workspace.stores,
            progress=progress,
            part=WHOLE if isinstance(step, str) else step,
            list_only=step == "init",
        )

    def planned_store(
        self, domain: Domain, images: Manifest, *, weights: Mapping[str, Any]
    ) -> PlannedStore:
        """Return the store that the params ask for; see `stages.embed.stores.planned_store`."""
        store = self.params.store
        return planned_store(
            self.params.embed,
            domain,
            manifest=images,
            shard_images=store.shard_images,
            codec=store.codec,
            weights=weights,
            projection=store.projection,
        )

    def repair(self, url: Url, progress: Progress) -> verify.Report:
        """Make damaged and missing shards again; return what is damaged then, or cannot be read.

        What could not be read is left as it is: it may be sound.

        Raises:
            ConfigError: If the store is not one that the params ask for.
            DataError: If an image of a damaged shard cannot be read: nothing was touched.
            SSRError: As the stage that makes the store.
        """
        kind = self._kind_of(url)

        def find_damage() -> verify.Report:
            return verify.verify(url, progress=lambda done, todo: progress(done, todo, "verify"))

        report = find_damage()
        for _ in ("metadata", "shards"):  # shards are looked at once the metadata is sound
            if not report.damage:
                break
            if kind == "labels":
                verify.discard(url, report.damage)
                self.label(progress)
            elif kind == "prefixes":
                verify.discard(url, report.damage)
                self.store_prefixes(progress)
            else:
                images = self.images_to_embed
                damaged = {image_id for one in report.damage for image_id in one.images}
                for record in images.select(domain=kind):
                    if record.image_id in damaged:  # else a shard that is partly intact were lost
                        read_raw(record, self._roots[kind])
                verify.discard(url, report.damage)
                alone = self._limited_to(kind, {one.level for one in report.damage if one.level})
                alone.embed(progress, step=WHOLE, images=images)
            report = find_damage()
        return report

    def _kind_of(self, url: Url) -> Domain | Literal["labels", "prefixes"]:
        """Say which store of this project it is: a domain's features, or another one."""
        place, train = self.workspace, self.params.train

        def is_at(path: str) -> bool:
            wanted = join(place.stores, path)
            if isinstance(url, Path) and isinstance(wanted, Path):
                return url.resolve() == wanted.resolve()
            return str(url).rstrip("/") == str(wanted).rstrip("/")

        labels = label_stage.kept_labels(place.labels) if self.params.wanted_label else None
        if labels is not None and is_at(labels.path):
            return "labels"
        if train.reads_prefixes:
            from stages.train.prefix import prefix_spec  # torch

            if is_at(prefix_spec(train).relative_path):
                return "prefixes"
        config = self.params.embed
        weights, load = config.teacher.weights_identity(), cache(config.load_encoder)
        for domain in config.domains:
            wanted = self.planned_store(domain, self.images_to_embed, weights=weights)
            if is_at(kept_store(wanted, config, place.stores, load).spec.relative_path):
                return domain
        raise ConfigError(
            f"{url}: is not a store that the params ask for, so `ssr embed` cannot repair it; put "
            "back the params that it was made with"
        )

    def _limited_to(self, domain: Domain, damaged: set[str]) -> "Project":
        """Embed one domain alone, at damaged levels beside those of the params."""
        config = self.params.embed
        wanted = {*config.levels, *map(upright, damaged)}
        update = {
            "domains": (domain,),
            "levels": tuple(name for name in config.teacher.levels() if name in wanted),
            "flips": ("none", "horizontal") if damaged - wanted else config.flips,
        }
        params = self.params.model_copy(update={"embed": config.model_copy(update=update)})
        return replace(self, params=params)
