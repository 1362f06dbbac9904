"""Write all references; see `pipeline.reference`."""

from pathlib import Path

from pipeline.console import console
from pipeline.reference import references
from store.atomic import update_bytes

ROOT = Path(__file__).parents[2]

for path, text in references().items():
    written = update_bytes(ROOT / path, text.encode())
    console.print(f"{path}: {'written' if written else 'as it was'}")
