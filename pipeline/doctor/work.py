"""Checks of the params against devices, data, weights, stores and disk."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pipeline.console import size
from pipeline.current import current_manifest, demand_current_stores
from pipeline.doctor.finding import Finding, attempt, findings_of, ok, problem, warning
from pipeline.files import INDEX, MANIFEST, RUN
from pipeline.params import Params, load_params
from pipeline.plan import free_bytes, plan_stores
from stages.prepare.config import DrawnConfig, root_of
from stages.prepare.manifest import Domain, Manifest
from stages.student.config import is_hub_id
from store.index import Index
from store.read import open_features

WEIGHT_FILES: Final = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")


def examine_work(path: Path, overrides: Sequence[str]) -> Iterator[Finding]:
    """Check the params, and what lies in the current folder against them.

    Args:
        path: The params file.
        overrides: As for `load_params`.

    Yields:
        Findings, as they are made; those of the params alone where these cannot be read.
    """
    config = attempt(lambda: load_params(path, overrides))
    if isinstance(config, Finding):
        yield config
        return
    yield ok(f"{path}: every key and value is allowed")
    for check in (devices, writable, roots, weights):
        yield from findings_of(partial(check, config))
    images = None
    if MANIFEST.exists():
        found = attempt(lambda: current_manifest(config, MANIFEST))
        if isinstance(found, Finding):
            yield found
        else:
            images = found
            yield from findings_of(partial(manifest, config, images))
    else:
        yield warning(f"{MANIFEST}: no images are listed yet: run `ssr prepare`")
    of_stores = list(findings_of(partial(stores, config, images)))
    yield from of_stores
    embedded = all(finding.mark == "ok" for finding in of_stores)
    yield from findings_of(partial(disk, config, images, embedded=embedded))


def devices(config: Params) -> Iterator[Finding]:
    """Refuse a GPU that is asked for where there is none."""
    from stages.device import pick_device

    for key, device in (
        ("embed.device", config.embed.device),
        ("train.device", config.train.device),
        ("evaluate.device", config.evaluate.device),
    ):
        found = attempt(partial(pick_device, device, key))
        yield from [found] if isinstance(found, Finding) else []


def roots(config: Params) -> Iterator[Finding]:
    """Check that the folders of the datasets are there."""
    for domain, source in config.prepare.domains.items():
        root = root_of(source)
        if isinstance(source, DrawnConfig):
            yield ok(f"{domain}: drawn into {root} on first use")
        elif root.is_dir():
            yield ok(f"{domain}: {source.kind} in {root}")
        else:
            yield problem(
                f"prepare.{domain}.root: {root}: there is no such folder: put the data there or "
                "correct the path"
            )


def manifest(config: Params, images: Manifest) -> Iterator[Finding]:
    """Check that the manifest's images are where it says, and large enough for the crop."""
    where = config.prepare.roots
    for domain in where:
        records = images.select(domain=domain)
        first = where[domain] / records[0].image
        if not first.is_file():
            yield problem(
                f"{first}: is in {MANIFEST}, but not there: put the data back, or run `ssr prepare`"
            )
        crop = config.train.crop_px
        small = [
            r for r in images.select(domain=domain, split="train") if min(r.working_size_px) < crop
        ]
        if small:
            height, width = small[0].working_size_px
            yield problem(
                f"train.crop_px {crop} is larger than the working image of {height}x{width} px of "
                f"{small[0].image_id}: run `ssr prepare`, which pads it, then `ssr embed`"
            )
    counts = ", ".join(f"{len(images.select(domain=d)):,} of {d}" for d in where)
    left_out = f", {len(images.skipped)} left out" if images.skipped else ""
    yield ok(f"{MANIFEST}: {counts}{left_out}")


def weights(config: Params) -> Iterator[Finding]:
    """Check that the weight files that the params name are there."""
    teacher, student, start = config.embed.teacher, config.train.student.weights, config.train.init
    if not teacher.trained:
        yield warning(
            "embed.teacher.weights is random, an UNTRAINED TEACHER: fine for a trial, else name a "
            "checkpoint of SAM"
        )
    elif not teacher.at_hand:
        missing = f"embed.teacher.weights: {teacher.weights}: there is no such weight file"
        if INDEX.is_file():
            yield warning(f"{missing}; what is embedded can be trained on, embedding needs it")
        else:
            yield problem(f"{missing}: download it, or correct embed.teacher.weights")
    if student != "random" and not Path(student).expanduser().exists():
        if _is_file(student):
            yield problem(
                f"train.student.weights: {student} does not exist: download it or correct the path"
            )
        elif not is_hub_id(student):
            yield problem(
                f"train.student.weights: {student} is no file or folder, and no Hugging Face id, "
                "which is owner/name as nvidia/mit-b5: correct it, or set it to random"
            )
    if start is not None and not (Path(start).expanduser() / "config.json").is_file():
        yield problem(
            f"train.init: {start}/config.json is missing: train that student first, or name "
            "another student's folder"
        )


def stores(config: Params, images: Manifest | None) -> Iterator[Finding]:
    """Check that the stores are of the teacher that the params name, and complete."""
    regularizer = config.train.regularizer
    if not regularizer.on:
        yield ok("train.regularizer.on is []: no features are read")
        return
    if not isinstance(config.store.location, Path) and find_spec("s3fs") is None:
        yield problem(f"store.url: {config.store.url} needs s3fs: `pip install -e '.[s3]'`")
        return
    if not INDEX.exists():
        yield warning(f"{INDEX}: nothing is embedded yet: run `ssr embed`")
        return
    index = Index.read(INDEX)
    demand_current_stores(config, INDEX)
    wanted: tuple[Domain, ...] = ("source", "target") if "mixed" in regularizer.on else ("source",)
    for domain in wanted if images is not None else ():
        assert images is not None
        skipped = index.skipped(domain)
        records = images.select(domain=domain, split="train")
        reader = open_features(
            config.store.location,
            index,
            domain,
            levels=regularizer.used_levels,
            images={r.image_id: r.content for r in records if r.image_id not in skipped},
        )
        levels = ", ".join(regularizer.used_levels)
        yield ok(
            f"{domain} store: {len(records):,} images at {levels} in {reader.header.files.url}"
        )


def disk(config: Params, images: Manifest | None, *, embedded: bool) -> Iterator[Finding]:
    """Compare the room on the disk with what embedding needs.

    Args:
        config: All sections.
        images: The images, if they are known.
        embedded: Whether all of them are embedded already.
    """
    free, place = free_bytes(config.store.url), config.store.location
    if free is None or not isinstance(place, Path):
        yield ok(f"room: {config.store.url} is no disk")
        return
    line = f"room: {size(free)} free at {config.store.url}"
    if embedded or images is None or not config.embed.domains:
        yield ok(line)
        return
    need = plan_stores(config, images).size_bytes(config.store.codec)
    line += f", {size(need)} needed in all"
    if need <= free:
        yield ok(line)
    elif any(place.glob("*/*.zarr")):
        yield warning(f"{line}: make room, unless much of it is there already")
    else:
        yield problem(f"{line}: make room, set store.codec: int8-zstd, or another store.url")


def writable(config: Params) -> Iterator[Finding]:
    """Check the permissions of the folders that commands write into."""
    places = [MANIFEST.parent, RUN]
    if isinstance(config.store.location, Path):
        places.append(config.store.location)
    for place in places:
        there = place.absolute()
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            yield problem(f"{there}: is in a folder's place: move it away")
        elif not os.access(there, os.W_OK | os.X_OK):
            yield problem(f"{there}: cannot be written to: set its permissions, or work elsewhere")


def _is_file(name: str) -> bool:
    """Tell a path from `random` and from a model's name on Hugging Face."""
    return name.endswith(WEIGHT_FILES) or name.startswith(("/", "./", "../", "~"))
