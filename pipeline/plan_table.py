"""How `ssr plan` shows its estimate."""

from collections.abc import Iterator, Sequence

from pipeline.console import console, print_table, size
from pipeline.estimate import BreakEven, Estimate
from pipeline.params import Params
from stages.embed.architectures import ARCHITECTURES
from store.footprint import CODECS, size_ratio


def print_plan(plan: Estimate, params: Params, *, device: str, free_bytes: int | None) -> None:
    """Show what stage one will cost, line by line.

    Args:
        plan: The estimate.
        params: What it is of.
        device: Where the encoder was expected to run, for a device that nobody knows.
        free_bytes: Room on the disk of the stores; None where there is no telling.
    """
    side_px = ARCHITECTURES[params.embed.architecture].side_px
    print_table(
        f"teacher {params.embed.architecture}, {params.embed.precision}: "
        f"{_count(plan.macs_per_tile)}MAC per tile of {side_px} px",
        ("", "images", "tiles", "MAC", "time"),
        _work(plan),
    )
    codecs = [*CODECS, *([] if plan.codec in CODECS else [plan.codec])]
    print_table(
        f"stores below {params.store.url}, {plan.codec}",
        ("", "files", *codecs),
        _disk_rows(plan, codecs),
    )
    for line in (
        _time(plan, device),
        _disk(plan, params.store.url, free_bytes),
        _memory(plan),
        _pays(plan.break_even, plan.tiles, params.train.iterations),
    ):
        console.print(line)


def _work(plan: Estimate) -> Iterator[tuple[str, ...]]:
    for level in plan.levels:
        images = f"{level.images:,}"
        yield (f"{level.domain} {level.level}", images, *_work_of(plan, level.tiles))
    images = f"{sum({level.domain: level.images for level in plan.levels}.values()):,}"
    yield ("in all", images, *_work_of(plan, plan.tiles))


def _work_of(plan: Estimate, tiles: int) -> tuple[str, str, str]:
    time = _duration(tiles / plan.speed.tiles_per_second) if plan.speed else "?"
    return f"{tiles:,}", _count(tiles * plan.macs_per_tile), time


def _disk_rows(plan: Estimate, codecs: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for level in plan.levels:
        sizes = (size(round(level.room.size_bytes * size_ratio(codec))) for codec in codecs)
        yield (f"{level.domain} {level.level}", f"{level.room.files:,}", *sizes)
    metadata = plan.metadata
    yield ("metadata", f"{metadata.files:,}", *(size(metadata.size_bytes) for _ in codecs))
    yield ("in all", f"{plan.room.files:,}", *(size(plan.size_bytes(codec)) for codec in codecs))


def _count(macs: int) -> str:
    value, units = macs / 1e9, ["G", "T", "P", "E"]
    while value >= 10_000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:,.4g} {units[0]}"


def _time(plan: Estimate, device: str) -> str:
    if plan.speed is None or plan.seconds is None:
        return (
            f"time: unknown, {device} is not in the table; `ssr plan --calibrate` measures a few "
            "tiles, `--device a100` asks for another device"
        )
    rate = plan.speed.tiles_per_second
    tflops = 2 * plan.macs_per_tile * rate / 1e12
    return (
        f"time: {_duration(plan.seconds)} at {rate:.3g} tiles/s, {tflops:.3g} TFLOP/s "
        f"({plan.speed.source})"
    )


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _disk(plan: Estimate, url: str, free_bytes: int | None) -> str:
    need = plan.size_bytes(plan.codec)
    if free_bytes is None:
        return f"disk: {size(need)} needed at {url}"
    line = f"disk: {size(need)} needed, {size(free_bytes)} free at {url}"
    return line if need <= free_bytes else f"{line}: NOT ENOUGH, unless much of it is there already"


def _memory(plan: Estimate) -> str:
    embed, train = plan.embed_memory, plan.train_memory
    return (
        f"memory: embed about {size(embed.encoder)} for the encoder and {size(embed.shard)} for "
        f"a shard; train roughly {size(train.total)}, {size(train.activations)} of it activations"
    )


def _pays(pays: BreakEven | None, tiles: int, iterations: int) -> str:
    if pays is None:
        return "break-even: none, training reads no features (train.regularizer.on is [])"
    return (
        f"break-even: step {pays.steps:,}, {pays.steps / iterations:.2g} runs of {iterations:,} "
        f"steps; SAM in the loop encodes {pays.tiles_per_step} tiles a step, the stores {tiles:,} "
        "once"
    )
