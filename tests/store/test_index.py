from pathlib import Path

import pytest

from store.errors import StoreError
from store.index import Index
from tests.store.worlds import SPEC, images, write


def test_an_index_reads_back_as_written(tmp_path: Path) -> None:
    entry, _ = write(tmp_path, images(4))
    index = Index(stores={"source": entry})
    assert index.write(tmp_path / "index.json")
    assert Index.read(tmp_path / "index.json") == index
    assert not index.write(tmp_path / "index.json")  # DVC looks at its time
    assert entry.path == f"source/{SPEC.fingerprint[:8]}.zarr"
    assert (entry.images, len(entry.levels["stride8"].shards)) == (4, 2)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 2, "stores": {}}', b"\xff"])
def test_a_foreign_index_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "index.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="run `ssr embed`") as caught:
        Index.read(path)
    assert "\n" not in str(caught.value)
