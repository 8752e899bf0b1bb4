"""``graphopt quantize``: integers instead of floats, held to a stated quality."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.errors import GraphoptError

from .arguments import DataOption, JsonOption, Model, SeedOption, ThreadsOption, open_data
from .screen import Screen
from .watch import Watch, outcome_table
from .words import change, count, plural, size

if TYPE_CHECKING:
    from graphopt.calibrate import CalibrationData
    from graphopt.flows.quantize import Quantized

_SHARE = re.compile(r"([0-9.]+)\s*(%?)")


def quantize(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="The file to write.")],
    data: DataOption = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval", metavar="FEEDS", help="Feeds to judge on, not among --data; without, --data.", show_default=False
        ),
    ] = None,
    scheme: Annotated[
        str, typer.Option("--scheme", metavar="SCHEME", help="What becomes integer; see docs/commands/quantize.md.")
    ] = "w8a8",
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="RECIPE", help="Recipe text instead of a scheme's.", show_default=False),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", metavar="TARGET", help="Where it is going to run; `graphopt targets` lists them.")
    ] = "x86-64",
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="MODULE:FUNCTION",
            help="Your score of the outputs; more is better.",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option("--max-drop", metavar="1%", help="How much of the score may be lost.", show_default=False),
    ] = None,
    min_sqnr: Annotated[
        float | None,
        typer.Option(
            "--min-sqnr",
            metavar="DB",
            help="How many decibels the error must stay below each output.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            "--scale",
            metavar="INPUT=ZERO,SCALE",
            help="Feed (x - ZERO) / SCALE: for images stored as bytes.",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", metavar="", help="Say of every product what became of it, and why.")
    ] = False,
    data_free: Annotated[
        bool,
        typer.Option("--data-free", metavar="", help="Without --data, make inputs up; not for accuracy."),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", metavar="", help="Observe anew, whatever earlier runs have kept.")
    ] = False,
    threads: ThreadsOption = 0,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Compute a model on integers, hold the result to a stated quality, and write it.

    Where everything on integers is not good enough, what costs the most quality stays in floats. The input is never
    touched. The output appears when everything is done, or not at all.
    """
    with Screen(as_json) as screen:
        from graphopt.flows.quality import find_metric
        from graphopt.flows.quantize import Request
        from graphopt.flows.quantize import quantize as run

        scales = _scales(scale)
        with Watch(screen) as watch:
            request = Request(
                scheme=scheme,
                recipe=recipe,
                target=target,
                data=_scaled(open_data(data), scales),
                evaluation=_scaled(open_data(evaluation), scales),
                data_free=data_free,
                reuse=not fresh,
                metric=find_metric(metric) if metric is not None else None,
                max_drop=_share(max_drop) if max_drop is not None else None,
                min_sqnr_db=min_sqnr,
                threads=threads,
                seed=seed,
                events=watch.event,
            )
            found = run(model, output, request)
        screen.result(found.as_json())
        if not as_json:
            show(screen, found, model, output, explained=explain)


def show(screen: Screen, found: Quantized, source: Path, output: Path, *, explained: bool) -> None:
    """The account of a run that is over."""
    from graphopt.flows.places import file_bytes

    outcome_table(screen, found.outcomes)
    rows = []
    for item in found.quality.outputs:
        agreement = f"{item.agreement:.1%}" if item.agreement is not None else ""
        rows.append((item.name, f"{item.sqnr_db:.1f} dB", f"{item.cosine:.4f}", agreement))
    screen.table(("output", ">signal to error", ">cosine", ">same largest"), rows)
    screen.line()
    if found.quality.metric is not None and found.quality.original is not None:
        drop = found.quality.drop or 0.0
        screen.fact("metric", f"{found.quality.original:.4g} -> {found.quality.metric:.4g}  (a drop of {drop:.2%})")
    screen.fact("judged on", found.judged_on)
    before, after = file_bytes(source), file_bytes(output)
    screen.fact("file", f"{size(before)} -> {size(after)}  ({change(before, after)})")
    if found.fused is not None:
        fused = found.fused
        products = plural(len(fused.products), "product")
        screen.fact(
            "runtime",
            f"{count(len(fused.products) - fused.floats)} of {products} on integers, "
            f"{plural(fused.conversions, 'conversion')} left between integers and floats",
        )
    if found.measured is not None:
        item = found.measured
        colour = "green" if item.ratio_high < 1 else "yellow"
        words = "" if item.ratio_low <= 1 else ": SLOWER than the original, which is the better choice here"
        screen.fact(
            "latency",
            f"{item.ratio:.3f} of the original's [{item.ratio_low:.3f}, {item.ratio_high:.3f}], one thread{words}",
            colour,
        )
    if found.kept:
        screen.fact("in floats", f"{plural(len(found.kept), 'product')} for the sake of the quality")
    if explained:
        _explain(screen, found)
    screen.fact("written", str(output), "bold")


def _explain(screen: Screen, found: Quantized) -> None:
    kept = {where: text for step in found.outcomes for where, text in step.kept}
    costs = {site.where: f"{site.sqnr_db:.1f} dB" for site in found.sites}
    rows = []
    for product in found.fused.products if found.fused is not None else ():
        why = kept.get(product.where, product.reason)
        rows.append((product.where, product.kernel or "in floats", costs.get(product.where, ""), why))
    if rows:
        screen.table(("product", "computed by", ">alone on integers", "why"), rows)
        screen.line()


def _share(text: str) -> float:
    found = _SHARE.fullmatch(text.strip())
    try:
        number = float(found.group(1)) if found is not None else -1.0
    except ValueError:
        number = -1.0
    if found is None or not 0 <= number <= 100:
        raise GraphoptError(f"'{text}' is no share", "--max-drop", "write 1% or 0.01", usage=True)
    return number / 100 if found.group(2) else number


def _scales(text: list[str] | None) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for item in text or ():
        name, _, numbers = item.rpartition("=")
        zero, _, step = numbers.partition(",")
        try:
            found[name] = float(zero), float(step)
        except ValueError:
            name = ""
        if not name or found[name][1] == 0:
            raise GraphoptError(f"'{item}' is no scale", "--scale", "write --scale image=127,128", usage=True)
    return found


def _scaled(data: CalibrationData | None, scales: dict[str, tuple[float, float]]) -> CalibrationData | None:
    return data.scaled(scales) if data is not None and scales else data
