"""``graphopt inspect``: what is in a model?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import JsonOption, Model, sizes
from .screen import Screen
from .words import count, large, plural, size

if TYPE_CHECKING:
    from graphopt.flows.inspect import Inspection


def inspect(
    model: Model,
    dims: Annotated[
        list[str] | None,
        typer.Option(
            "--dims", metavar="N=4", help="Sizes of open dimensions, by symbol or as input:axis=4.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is in a model, and what it costs to run.

    A multiply-accumulate counts as two operations. Costs depend on the sizes of open dimensions: those of --dims, or
    ones that are found by trying.
    """
    with Screen(as_json) as screen:
        from graphopt.flows.inspect import inspect as run

        found = run(model, sizes(dims))
        screen.result(found.as_json())
        if not as_json:
            show(screen, found)


def show(screen: Screen, found: Inspection) -> None:
    """Facts, operators, the largest nodes and weights."""
    numbers = found.stats
    screen.fact("model", found.path, "bold")
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    screen.fact("format", f"IR version {found.ir_version}; opset {opsets}")
    if found.producer:
        screen.fact("made by", found.producer)
    screen.fact(
        "size",
        f"{size(found.file_bytes)} on disk; {plural(numbers.nodes, 'node')}, "
        f"{count(numbers.initializers)} constants with {large(numbers.parameters)} parameters "
        f"in {size(numbers.bytes)}",
    )
    for title, ports in (("input", found.inputs), ("output", found.outputs)):
        for name, kind in ports:
            screen.fact(title, f"{name}: {kind}")
    if found.functions:
        screen.fact("functions", ", ".join(found.functions))
    if found.external:
        screen.fact("external", ", ".join(found.external))
    if found.open_dims:
        taken = ", ".join(f"{dim.name}={dim.size}" for dim in found.open_dims)
        screen.fact("dynamic", f"{taken} ({found.sizes_from})")
    screen.fact(
        "costs",
        f"{large(found.flops)} FLOPs; {size(found.activations)} of activations, "
        f"at most {size(found.peak)} of them at once",
    )
    for note in found.notes:
        screen.fact("note", note, "yellow")
    screen.line()
    rows = [
        (
            row.operator,
            count(row.nodes),
            large(row.flops) if row.flops else "",
            _share(row.flops, found.flops),
            size(row.weights) if row.weights else "",
            size(row.activations) if row.activations else "",
        )
        for row in found.operators
    ]
    screen.table(("operator", ">nodes", ">FLOPs", ">share", ">weights", ">activations"), rows)
    if found.largest_nodes:
        screen.line()
        screen.table(
            ("most expensive nodes", ">FLOPs", ">activations"),
            [(where, large(flops), size(given)) for where, flops, given in found.largest_nodes],
        )
    if found.largest_weights:
        screen.line()
        screen.table(
            ("largest weights", "type", ">bytes"),
            [
                (item.name, f"{item.dtype}[{','.join(map(str, item.shape))}]", size(item.bytes))
                for item in found.largest_weights
            ],
        )


def _share(part: int, whole: int) -> str:
    if not part or not whole:
        return ""
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent >= 0.05 else "< 0.1 %"
