"""``graphopt inspect``: what is in a model?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.errors import GraphoptError

from .arguments import JsonOption, Model, sizes
from .screen import Screen
from .words import count, large, plural, size

if TYPE_CHECKING:
    from graphopt.flows.inspect import Inspection
    from graphopt.ir.memory_plan import MemoryPlan

_ALIVE = 8


def inspect(
    model: Model,
    dims: Annotated[
        list[str] | None,
        typer.Option(
            "--dims", metavar="N=4", help="Sizes of open dimensions, by symbol or as input:axis=4.", show_default=False
        ),
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Plan the memory of a run: which tensors can share it, and what is needed.")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", metavar="FILE", help="Draw the memory plan as SVG.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is in a model, and what it costs to run.

    A multiply-accumulate counts as two operations. Costs depend on the sizes of open dimensions: those of --dims, or
    ones that are found by trying.
    """
    with Screen(as_json) as screen:
        from graphopt.flows.inspect import inspect as run
        from graphopt.flows.places import refuse_overwriting, refuse_unwritable

        if picture is not None:
            if picture.suffix.lower() != ".svg":
                raise GraphoptError("the picture is an SVG file", f"--picture {picture}", "name it .svg", usage=True)
            refuse_unwritable(picture)
            refuse_overwriting(model, picture)
        found = run(model, sizes(dims), memory=memory or picture is not None)
        if picture is not None and found.memory is not None:
            from graphopt.ir.atomic import write_file
            from graphopt.report.memory_picture import draw

            write_file(picture, draw(found.memory, model.name).encode())
        screen.result(found.as_json())
        if not as_json:
            show(screen, found)
            if found.memory is not None:
                show_memory(screen, found.memory)
            if picture is not None and found.memory is not None:
                screen.line()
                screen.fact("picture", str(picture))


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


def show_memory(screen: Screen, plan: MemoryPlan) -> None:
    """What a run needs with and without sharing, and what lives at the fullest moment."""
    screen.line()
    screen.table(
        ("memory of activations", ">bytes", ">of naive"),
        [
            (name, size(value), _share(value, plan.naive))
            for name, value in (
                ("each tensor has its own (naive)", plan.naive),
                ("most alive at once, in the file's order", plan.in_order),
                ("the same with results over operands: no plan needs less", plan.bound),
                ("arena, one place for all", plan.arena),
            )
        ],
    )
    alive = plan.alive(plan.fullest)
    if alive:
        screen.line()
        title = f"alive at node {plan.fullest + 1} of {count(plan.nodes)}"
        rows = [
            (item.names[0], ("~" if item.guessed else "") + size(item.bytes), item.node or "given to the loop")
            for item in alive[:_ALIVE]
        ]
        if len(alive) > _ALIVE:
            rows.append((f"and {len(alive) - _ALIVE} more", size(sum(item.bytes for item in alive[_ALIVE:])), ""))
        screen.table((title, ">bytes", "made by"), rows)


def _share(part: int, whole: int) -> str:
    if not part or not whole:
        return ""
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent >= 0.05 else "< 0.1 %"
