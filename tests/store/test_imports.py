import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in (REPOSITORY / "store").glob("*.py"))


def modules_after(*names: str) -> set[str]:
    lines = [f"import store.{name}" for name in names]
    code = "\n".join([*lines, "import sys", "sys.stdout.write(' '.join(sys.modules))"])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, check=True, text=True
    )
    return set(done.stdout.split())


def test_no_module_of_the_store_imports_torch() -> None:
    loaded = modules_after(*(name for name in MODULES if name != "__init__"))
    assert "torch" not in loaded
    assert {"zarr", "xarray", "dask"} <= loaded


def test_reading_imports_neither_zarr_nor_xarray_nor_dask() -> None:
    assert not {"zarr", "xarray", "dask", "torch"} & modules_after("read", "index")
