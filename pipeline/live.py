"""DVCLive: the rows of training as its metrics, for its editors' extension and DVC Studio."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from store.errors import ConfigError

if TYPE_CHECKING:  # torch
    from stages.train.tracking import Curves


def live_rows(folder: Path) -> "Callable[[Curves], None]":
    """Return what passes new rows on to DVCLive, whose files are in this folder.

    They are written anew from the first row on, also by a resumed run: DVCLive only appends, and a
    killed run may have appended rows that its checkpoint does not know.

    Raises:
        ConfigError: If DVCLive is not installed.
    """
    try:
        from dvclive import Live
    except ImportError as error:
        raise ConfigError(
            "--live needs DVCLive: `pip install -e '.[live]'`; without it runs/curves.csv, "
            "health.csv and validation.csv hold the same numbers"
        ) from error
    live = Live(str(folder), dvcyaml=None, save_dvc_exp=False)  # dvc.yaml is ours
    passed = {"train": 0, "health": 0, "validation": 0}

    def pass_on(curves: "Curves") -> None:
        kinds = {"train": curves.rows, "health": curves.health, "validation": curves.validation}
        for kind, rows in kinds.items():
            for row in rows[passed[kind] :]:
                live.step = int(row["iteration"])
                for name, value in row.items():
                    if name != "iteration":
                        live.log_metric(f"{kind}/{name}", value)
            passed[kind] = len(rows)
        live.make_summary()

    return pass_on
