import subprocess
import sys
from pathlib import Path


def test_reading_imports_neither_zarr_nor_xarray_nor_dask_nor_torch() -> None:
    code = "import store.read, store.index, sys; sys.stdout.write(' '.join(sys.modules))"
    command = [sys.executable, "-c", code]
    repository = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=repository, capture_output=True, check=True, text=True)
    assert not {"zarr", "xarray", "dask", "torch"} & set(done.stdout.split())
