"""The rows of training for other tools to show: DVCLive's files and TensorBoard's."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.errors import ConfigError

if TYPE_CHECKING:  # torch
    from stages.train.tracking import Curves

_Show = Callable[[str, float, int], object]
"""(kind/name, value, iteration) -> None."""


def rows_for(names: Iterable[str], folder: Path) -> "Callable[[Curves], None]":
    """Return what passes new rows on to the tools of `train.log_to`.

    Their files, in the folders `live` and `tensorboard` of the run, are written anew from the first
    row on, also by a resumed run: both tools only append, and a killed run may have appended rows
    that its checkpoint does not know. Nothing is written before the first call.

    Raises:
        ConfigError: If a tool is not installed.
    """
    tools = [_tool(name) for name in dict.fromkeys(names)]
    opened: list[tuple[_Show, Callable[[], object]]] = []
    passed = {"train": 0, "health": 0, "validation": 0}

    def pass_on(curves: "Curves") -> None:
        if not opened:
            opened.extend(open_tool(folder) for open_tool in tools)
        kinds = {"train": curves.rows, "health": curves.health, "validation": curves.validation}
        for kind, rows in kinds.items():
            for row in rows[passed[kind] :]:
                for name, value in row.items():
                    if name != "iteration":
                        for show, _ in opened:
                            show(f"{kind}/{name}", value, int(row["iteration"]))
            passed[kind] = len(rows)
        for _, flush in opened:
            flush()

    return pass_on


def _tool(name: str) -> Callable[[Path], tuple[_Show, Callable[[], object]]]:
    try:
        if name == "dvclive":
            from dvclive import Live

            return lambda folder: _dvclive(Live, folder / "live")
        from torch.utils.tensorboard import SummaryWriter

        return lambda folder: _tensorboard(SummaryWriter, folder / "tensorboard")
    except ImportError as error:
        raise ConfigError(
            f"train.log_to: {name} is not installed: `pip install -e '.[{name}]'`, or set it to [];"
            " curves.csv, health.csv and validation.csv hold the same numbers"
        ) from error


def _dvclive(live_class: Any, folder: Path) -> tuple[_Show, Callable[[], object]]:  # noqa: ANN401
    live = live_class(str(folder), dvcyaml=None, save_dvc_exp=False)  # dvc.yaml is ours

    def show(name: str, value: float, iteration: int) -> None:
        live.step = iteration
        live.log_metric(name, value)

    return show, live.make_summary


def _tensorboard(
    writer_class: Any,  # noqa: ANN401 - an optional package
    folder: Path,
) -> tuple[_Show, Callable[[], object]]:
    writer = writer_class(str(folder), purge_step=0)  # hides what is there of another attempt
    return writer.add_scalar, writer.flush
