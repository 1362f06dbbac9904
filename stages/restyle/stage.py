"""Show images of the source in the style of others; their labels hold.

Every image depends on its content, its style and the mixer alone, its style on the seed, the draw
and the images; its file says so. An interrupted run makes what is not there yet, to the same bytes,
in any order and by any number of threads or machines.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import AfterValidator, Field

from stages.fields import Domain, Section, Seed, Split, distinct
from stages.prepare.datasets.dataset import Progress
from stages.prepare.labels import ClassTable
from stages.prepare.manifest import ImageRecord, Manifest
from stages.prepare.pixels import DAMAGED, read_bytes, read_raw, resize_image
from stages.prepare.restyled import Restyled
from stages.restyle.mixers import MixerConfig
from store.atomic import write_bytes
from store.errors import DataError
from store.fingerprint import canonical_json, fingerprint_of, sha256_of_file
from store.lease import WHOLE, Part


class RestyleConfig(Section):
    """Section `restyle`: images of the source that are also shown in other styles."""

    mixer: MixerConfig = Field(description="What gives an image the style of another.")
    styles: Literal["source", "target"] = Field(
        description="Whose training images the styles are of: `source` needs no target "
        "(*intra-source*), `target` shows the source as the target looks; its labels are not read."
    )
    draws: Annotated[int, Field(ge=1, le=16)] = Field(
        description="Restyled images of each image, of styles drawn at random."
    )
    splits: Annotated[tuple[Split, ...], Field(min_length=1), AfterValidator(distinct)] = Field(
        description="Splits of the source to restyle: `train.restyled` reads `train`, "
        "`train.validate_on: proxy` reads `val`."
    )
    seed: Seed = Field(description="Seed of the styles that are drawn.")


RESTYLING_VERSION: Final = 1
"""Raise it when a change of this package changes the pixels of the same images and settings."""

_NOTE: Final = "ssr.restyled"


@dataclass(frozen=True, slots=True)
class Mix:
    """One image to make: what it shows, in whose style, and which of the content's it is."""

    content: ImageRecord
    style: ImageRecord
    draw: int

    @property
    def image_id(self) -> str:
        """Its id, unique beside those of the source."""
        return f"{self.content.image_id}.{self.draw}"

    @property
    def path(self) -> PurePosixPath:
        """Its file, below the folder of the settings."""
        stem = PurePosixPath(self.content.image).with_suffix("")
        return PurePosixPath(self.content.split) / f"{stem}.{self.draw}.png"

    @property
    def made_of(self) -> dict[str, Any]:
        """What it is made of, by ids."""
        return {"content": self.content.image_id, "style": self.style.image_id, "draw": self.draw}

    def record(self, folder: str, digest: str) -> ImageRecord:
        """Describe its file, in a folder and of a digest."""
        return replace(
            self.content,
            image_id=self.image_id,
            image=str(folder / self.path),
            raw_size_px=self.content.resized_size_px,
            sha256=digest,
        )


@dataclass(frozen=True, slots=True)
class RestyleResult:
    """What the stage left: restyled images, those made now, and their folder; None where off."""

    images: int
    made: int
    folder: Path | None


def run(
    config: RestyleConfig | None,
    *,
    manifest_path: Path,
    roots: Mapping[Domain, Path],
    out: Path,
    progress: Progress,
    part: Part = WHOLE,
) -> RestyleResult:
    """Make the restyled images that are not there yet, and write their manifest.

    Images of other settings stay where they are, in a folder of their own. Without a config it
    writes an empty manifest.

    The manifest goes to `out`, images to the folder of the same name without suffix. A part (i, n)
    makes the i-th of n shares, for job arrays, and writes no manifest.

    Raises:
        DataError: There are no images or styles, or one cannot be read or has changed.
        CheckpointError: The mixer's weights are missing or damaged.
    """
    if config is None:
        Manifest(ClassTable((), ()), (), {}).write(out)
        return RestyleResult(0, 0, None)
    manifest, identity = Manifest.read(manifest_path), config.mixer.identity
    settings = _settings(config, identity)
    mixes = planned_mixes(config, manifest)
    share = mixes[part[0] - 1 :: part[1]]
    name = fingerprint_of(settings)[:8]
    folder = out.with_suffix("") / name
    made = 0

    def make(mix: Mix) -> tuple[bool, str]:
        """Return whether the image was made now, and the digest of its file."""
        shown = {"content": mix.content, "style": mix.style}
        about = settings | mix.made_of  # all that the pixels depend on
        about |= {f"{name}_sha256": record.sha256 for name, record in shown.items()}
        about |= {f"{name}_size_px": record.resized_size_px for name, record in shown.items()}
        note = canonical_json(about).decode()
        path = folder / mix.path
        kept = _kept(path, note, mix.content.resized_size_px)
        if kept is not None:
            return False, sha256(kept).hexdigest()
        content, style = (
            resize_image(read_raw(record, roots[record.domain]), record.resized_size_px)
            for record in shown.values()
        )
        texts, file = PngInfo(), BytesIO()
        texts.add_itxt(_NOTE, note)
        Image.fromarray(config.mixer.mix(content, style)).save(file, "PNG", pnginfo=texts)
        write_bytes(path, file.getvalue())
        return True, sha256(file.getvalue()).hexdigest()

    digests = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for done, (is_new, digest) in enumerate(pool.map(make, share), start=1):
            digests.append(digest)
            made += is_new
            progress(done, len(share), "restyling")
    finally:
        pool.shutdown(cancel_futures=True)
    if part == WHOLE:
        rows = (mix.record(name, digest) for mix, digest in zip(mixes, digests, strict=True))
        noted = {
            "manifest": sha256_of_file(manifest_path),
            "settings": settings,
            "images": {mix.image_id: mix.made_of for mix in mixes},
        }
        Manifest(
            classes=manifest.classes,
            records=tuple(rows),
            labels={"source": manifest.labels["source"]},
            sources={"source": noted},
        ).write(out)
    return RestyleResult(len(share), made, folder)


def with_planned(manifest: Manifest, config: RestyleConfig) -> Manifest:
    """Add what `planned_mixes` chooses to a manifest; hashes of files are not known yet."""
    rows = (mix.record("", "") for mix in planned_mixes(config, manifest))
    restyled = tuple(replace(row, domain="restyled") for row in rows)
    return replace(manifest, records=(*manifest.records, *restyled))


def planned_mixes(config: RestyleConfig, manifest: Manifest) -> tuple[Mix, ...]:
    """Choose a style for every draw of every image; none gets its own.

    Raises:
        DataError: There are no images to restyle, or none to take styles from.
    """
    contents = [r for s in config.splits for r in manifest.select(domain="source", split=s)]
    styles = manifest.select(domain=config.styles, split="train")
    places = {record.image_id: place for place, record in enumerate(styles)}
    if not contents:
        raise DataError(
            f"no image of source/{' or source/'.join(config.splits)} is there to restyle: change "
            "restyle.splits, or run `ssr prepare`"
        )
    if config.styles == "source" and len(styles) < 2:
        raise DataError(
            "restyle.styles is source, and source/train has one image, which gets no style of its "
            "own: set target, or add images and run `ssr prepare`"
        )
    mixes = []
    for content in contents:
        own = places.get(content.image_id, len(styles))
        number = int.from_bytes(sha256(content.image_id.encode()).digest()[:8])
        for draw in range(config.draws):
            rng = np.random.default_rng((config.seed, 0, number, draw))
            place = int(rng.integers(len(styles) - (own < len(styles))))
            mixes.append(Mix(content, styles[place + (place >= own)], draw))
    return tuple(mixes)


def require_current_restyled(config: RestyleConfig, *, manifest_path: Path, path: Path) -> None:
    """Refuse restyled images of another manifest or of other settings.

    Raises:
        DataError: There are none, or they are of others.
    """
    noted = Restyled.read(path, of=manifest_path).noted
    found = noted["settings"]
    wanted = _settings(config, found["mixer"] if config.mixer.made(found["mixer"]) else {})
    other = [key for key, value in wanted.items() if found.get(key) != value]
    mixes = planned_mixes(config, Manifest.read(manifest_path))
    if not other and noted["images"] != {mix.image_id: mix.made_of for mix in mixes}:
        other = ["draws", "splits"]
    if other:
        raise DataError(
            f"{path}: was made with another restyle.{', restyle.'.join(other)}: run `ssr restyle`"
        )


def _settings(config: RestyleConfig, mixer: Mapping[str, Any]) -> dict[str, Any]:
    """Name what decides about the pixels of all images."""
    return {
        "mixer": dict(mixer),
        "styles": config.styles,
        "seed": config.seed,
        "version": RESTYLING_VERSION,
    }


def _kept(path: Path, note: str, size_px: tuple[int, int]) -> bytes | None:
    """Return the file if it is whole and says the same of itself."""
    if not path.exists():
        return None
    data = read_bytes(path)
    try:
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            image.load()
            said = getattr(image, "text", {}).get(_NOTE)
            return data if said == note and image.size == size_px[::-1] else None
    except (*DAMAGED, Image.DecompressionBombError):
        return None
