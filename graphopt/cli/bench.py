"""``graphopt bench``: which model is faster, and by how much?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import DataOption, JsonOption, SeedOption, TargetOption, ThreadsOption, open_data
from .screen import Screen
from .words import plural, size, three
from .words import seconds as in_seconds

if TYPE_CHECKING:
    from graphopt.execute.measure import Measurement
    from graphopt.flows.bench import Benchmark


def bench(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="A [B ...]", help="The first is the measure.", show_default=False),
    ],
    target: TargetOption = "onnx",
    data: DataOption = None,
    threads: ThreadsOption = 1,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, metavar="S", help="How long to measure each model, at least.")
    ] = 2.0,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure models against the first one, in turns: A B A B.

    Where the interval of a ratio holds 1, or the ratio is within 2 % of 1, no difference was shown.
    """
    with Screen(as_json) as screen:
        from graphopt.flows.bench import bench as run

        def work() -> Benchmark:
            return run(models, open_data(data), target=target, threads=threads, seed=seed, seconds=seconds)

        if screen.live:
            with screen.console.status("measuring in turns", spinner="line"):
                found = work()
        else:
            found = work()
        screen.result(found.as_json())
        if not as_json:
            show(screen, found)


def show(screen: Screen, found: Benchmark) -> None:
    """The table, and what may be said of it."""
    rows = [
        (
            item.name,
            three(item.median_ms),
            f"{item.ratio:.3f}",
            f"{item.ratio_low:.3f}..{item.ratio_high:.3f}" if index else "",
            in_seconds(item.load_s),
            size(item.peak_bytes),
            size(item.file_bytes),
        )
        for index, item in enumerate(found.measurements)
    ]
    screen.table(("model", ">ms", ">ratio", ">95 %", ">load", ">memory", ">file"), rows)
    first = found.measurements[0]
    screen.line(
        f"{first.provider}, {plural(first.threads, 'thread') if first.threads else 'all cores'}, {found.feeds}; "
        f"{plural(first.runs, 'round')} in turns",
        style="dim",
    )
    for item in found.measurements[1:]:
        screen.line(claim(first, item))


def claim(first: Measurement, item: Measurement) -> str:
    """What the interval allows to say."""
    from graphopt.execute.measure import NOISE

    if item.ratio_low <= 1 <= item.ratio_high:
        return f"{item.name}: no difference from {first.name} was shown"
    if abs(1 - item.ratio) < NOISE:
        return f"{item.name}: within {100 * NOISE:.0f} % of {first.name}, which this measurement cannot tell apart"
    word = "less" if item.ratio < 1 else "more"
    percent = 100 * abs(1 - item.ratio)
    return f"{item.name}: {percent:.1f} % {word} time than {first.name}"
