"""Nothing that a store says is believed before it was checked: names, links, sizes, numbers."""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import atomic
from store.errors import StoreError, StoreUnreadableError
from store.files import Files, LocalFiles, Url, files_at, join
from store.fingerprint import canonical_json, sha256, with_crc32c
from store.header import METADATA_FILE, read_header
from store.index import Index
from store.ledger import SLOTS_FILE
from store.read import DamageError, FeatureReader, decode_chunk
from store.spec import LevelGrid
from store.summary import inspect, open_dataset
from store.verify import discard, verify
from tests.store.worlds import SPEC, images, write

IMAGES = images(7)
BIT8 = replace(SPEC, codec="int8-zstd")
FIELDS = ("sum", "sumsq", "min", "max")
ENTRY, ARRAY = "ledger/stride8/000000.json", "stride8/zarr.json"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write(tmp_path / "features", IMAGES)
    return tmp_path / "features" / SPEC.relative_path


def craft(store: Path, name: str, change: Callable[[Any], object]) -> None:
    """Change a JSON file of a store, and every digest that would tell."""
    path = store / name
    content = json.loads(path.read_bytes())
    change(content)
    content.pop("check", None)
    if name == ENTRY:
        content["check"] = sha256(canonical_json(content))
    path.write_bytes(canonical_json(content))
    seal(store)


def look(store: Path) -> None:
    inspect(store)
    open_dataset(store)


def seal(store: Path) -> None:
    """Make the digests of the metadata those of the files that are there."""
    digests = json.loads((store / METADATA_FILE).read_bytes())["files"]
    for name in digests:
        if (store / name).resolve().is_relative_to(store) and (store / name).is_file():
            digests[name] = sha256((store / name).read_bytes())
    content: dict[str, Any] = {"format": 2, "files": digests}
    check = sha256(canonical_json(content))
    (store / METADATA_FILE).write_bytes(canonical_json(content | {"check": check}))


OPERATIONS: tuple[Callable[[Files, str], object], ...] = (
    lambda held, name: held.read(name),
    lambda held, name: held.open(name).__enter__(),
    lambda held, name: held.write(name, b"written"),
    lambda held, name: held.size(name),
    lambda held, name: held.names(name),
    lambda held, name: held.delete(name),
)


@pytest.mark.parametrize("name", ["../victim", "/etc/passwd", "a//b", "a\0b"])
def test_names_that_lead_elsewhere_are_refused_by_every_operation(place: Url, name: str) -> None:
    files_at(place).write("victim", b"precious")
    for operation in OPERATIONS:
        with pytest.raises(OSError, match="no file of a store has such a name"):
            operation(files_at(join(place, "store")), name)
    assert files_at(place).read("victim") == b"precious"


def test_links_that_lead_out_are_refused_by_every_operation(tmp_path: Path) -> None:
    outside, place = tmp_path / "outside", tmp_path / "place"
    for folder in (outside, place / "inside"):
        folder.mkdir(parents=True)
        (folder / "file").write_text("precious")
    (place / "out").symlink_to(outside)
    (place / "in").symlink_to("inside")
    (place / "file").symlink_to(outside / "file")
    (tmp_path / "root").symlink_to(place)  # a store may lie on another disk
    held = LocalFiles(tmp_path / "root")
    for operation in OPERATIONS:
        for name in ("out", "out/file", "file"):
            with pytest.raises(OSError, match="leads out of the store"):
                operation(held, name)
    assert held.read("in/file") == b"precious"
    assert held.names("in") == ["file"]
    assert [path.name for path in outside.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_refused_and_never_waited_for(store: Path, kind: str) -> None:
    path = store / "zarr.json"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(StoreUnreadableError, match=r"cannot read .*zarr\.json"):
        read_header(files_at(store))
    assert [one.file for one in verify(store).unread] == ["zarr.json"]


@pytest.mark.parametrize("name", ["../../../victim", "stride8/c.0.0.0.0"])
def test_a_crafted_ledger_makes_repair_delete_nothing_that_is_no_metadata(
    store: Path, tmp_path: Path, name: str
) -> None:
    victims = [tmp_path / "victim", store / "stride8" / "c.0.0.0.0"]
    victims[0].write_text("precious")
    craft(store, METADATA_FILE, lambda content: content["files"].update({name: ""}))
    with pytest.raises(StoreError, match=r"metadata\.json .* is missing, damaged"):
        read_header(files_at(store))
    report = verify(store)
    assert [one.file for one in report.damage] == [METADATA_FILE]
    discard(store, report.damage)
    assert all(victim.exists() for victim in victims)
    assert write(tmp_path / "features", IMAGES)[1] == []
    assert verify(store).sound


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (SLOTS_FILE, lambda c: c["slots"][0]["image"].update(working_size_px=[32, 10**9])),
        (SLOTS_FILE, lambda c: c["slots"].append(c["slots"][0])),
        (SLOTS_FILE, lambda c: c["slots"].clear()),
        (ARRAY, lambda c: c.update(shape=[10**9, 4, 20, 24])),
        (ARRAY, lambda c: c["chunk_grid"]["configuration"].update(chunk_shape=[10**6, 4, 32, 32])),
        (ARRAY, lambda c: c["attributes"].update(channels="many")),
        (ARRAY, lambda c: c.clear()),
        (ENTRY, lambda c: c["statistics"].update(count=0)),
        (ENTRY, lambda c: c["statistics"].update(sum=[1e308] * 4)),
        (ENTRY, lambda c: c["statistics"].update(min=[1.0])),
        (ENTRY, lambda c: [c["statistics"].update({key: [1.0]}) for key in FIELDS]),
    ],
)
def test_numbers_that_no_store_has_are_refused_and_repaired(
    store: Path, name: str, change: Callable[[Any], object]
) -> None:
    craft(store, name, change)
    with pytest.raises(StoreError, match=rf"{name} .*damaged"):
        look(store)
    if name == ENTRY:
        damage = verify(store).damage
        assert [one.file for one in damage] == [ENTRY]
        discard(store, damage)
    assert len(write(store.parents[1], IMAGES)[1]) == (name == ENTRY)
    assert verify(store).sound


@pytest.mark.parametrize("value", [np.nan, 0, 1e38])
def test_a_scale_that_cannot_be_is_damage(tmp_path: Path, value: float) -> None:
    entry, _ = write(tmp_path, IMAGES, spec=BIT8)
    store = tmp_path / entry.path
    scale = np.array([1, 1, value, 1], "<f4")
    (store / "scale_stride8" / "c.0").write_bytes(with_crc32c(scale.tobytes()))
    seal(store)
    with pytest.raises(StoreError, match=r"scale_stride8/c\.0 .* is missing, damaged"):
        read_header(files_at(store))


@pytest.mark.parametrize("place", [2**40, 2**64 - 2])
def test_an_index_that_points_beyond_the_file_is_damage(store: Path, place: int) -> None:
    path = store / "stride8" / "c.0.0.0.0"
    data, size = path.read_bytes(), LevelGrid.of(SPEC, "stride8").index_bytes
    for offset, length in ((place, 2052), (0, place)):
        index = np.frombuffer(data[-size:-4], "<u8").copy()
        index[:2] = offset, length
        path.write_bytes(data[:-size] + with_crc32c(index.tobytes()))
        with pytest.raises(StoreError, match="lies in a damaged shard"):
            FeatureReader(store).window(IMAGES[0].image_id, "stride8", 0, 0, 2, 2)
        assert [one.images[0] for one in verify(store).damage] == [IMAGES[0].image_id]


@pytest.mark.parametrize("claim", [0, 2**50])
def test_a_frame_that_claims_another_size_is_damage(claim: int) -> None:
    frame = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", claim) + b"\1\0\0"
    chunk = np.frombuffer(with_crc32c(frame), np.uint8)
    with pytest.raises(DamageError, match=f"claims {claim} bytes instead of 1024"):
        decode_chunk(chunk, LevelGrid.of(BIT8, "stride8"))


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
@pytest.mark.parametrize("name", ["stride8/c.1.0.0.0", "ledger/stride8/000001.json", "zarr.json"])
def test_what_could_not_be_looked_at_is_not_called_damaged_by_any_reader(
    store: Path, error: Exception, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, flags: int) -> int:
        if path == store / name and flags == os.O_RDONLY:
            raise error
        return opened(path, flags)

    opened = atomic.open_regular
    monkeypatch.setattr(atomic, "open_regular", fail)
    if name != "zarr.json":
        report = verify(store)
        assert report.damage == ()
        assert [(one.level, one.shard) for one in report.unread] == [("stride8", 1)]
        assert not report.sound
    with pytest.raises(StoreUnreadableError):
        FeatureReader(store).window(IMAGES[3].image_id, "stride8", 0, 0, 2, 2)
    if name != "stride8/c.1.0.0.0":
        with pytest.raises(StoreUnreadableError):
            inspect(store)
        with pytest.raises(StoreError, match=r"cannot (read|write)"):
            write(store.parents[1], IMAGES)


def test_foreign_files_are_passed_over(store: Path, tmp_path: Path) -> None:
    folders = [store, *(path for path in store.rglob("*") if path.is_dir())]
    foreign = ("._zarr.json", ".DS_Store", "Thumbs.db", "._1-of-1.lock", "._1-of-2.json")
    for folder in folders:
        for name in (*foreign, "._000000.json", "0000001.json", "c.01.0.0.0", "c.\u0661.0.0.0"):
            (folder / name).write_bytes(b"\0\5\x16\7")
    assert verify(store).sound
    assert inspect(store).complete
    assert set(open_dataset(store).data_vars) == {"stride8", "stride16"}
    assert write(tmp_path / "features", IMAGES)[1] == []


def test_an_index_is_of_one_form_and_names_stores_where_they_can_be(tmp_path: Path) -> None:
    entry, _ = write(tmp_path, IMAGES)
    path, good = tmp_path / "index.json", Index(stores={"source": entry})
    assert good.write(path)
    assert Index.read(path) == good
    os.utime(path, ns=(1, 1))
    assert not good.write(path)
    assert path.stat().st_mtime_ns == 1  # which DVC looks at
    content = json.loads(path.read_bytes())
    bad = [b"", b"{", b"[]", b'{"format": 2, "stores": {}}', b"\xff"]
    for domain, place in (
        ("source", "../elsewhere/{}.zarr"),
        ("..", "../{}.zarr"),
        ("a/b", "a/b/{}.zarr"),
        ("source", "source/00000000.zarr"),
    ):
        moved = content["stores"]["source"] | {"path": place.format(entry.fingerprint[:8])}
        bad.append(json.dumps(content | {"stores": {domain: moved}}).encode())
    for data in bad:
        path.write_bytes(data)
        with pytest.raises(StoreError, match="is not an index of features: delete it and run") as e:
            Index.read(path)
        assert "\n" not in str(e.value)
