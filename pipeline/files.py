"""Paths of the pipeline's files; `dvc.yaml` names the same."""

from pathlib import Path

PARAMS = Path("params.yaml")
MANIFEST = Path("data/manifest.parquet")
SCAN_CACHE = Path("data/scan-cache.parquet")
EVALUATE_CACHE = Path("data/scan-cache-evaluate")
INDEX = Path("data/index.json")
START = Path("data/start.json")
RUN = Path("runs")
COMPARISON = RUN / "comparison.png"
