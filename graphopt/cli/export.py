"""``graphopt export``: a torch module to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .arguments import JsonOption
from .screen import Screen
from .watch import Watch
from .words import plural, small


def export(
    factory: Annotated[
        str, typer.Argument(metavar="FACTORY", help="package.module:callable or file.py:callable.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="The file to write.", show_default=False)
    ],
    exporter: Annotated[
        Literal["dynamo", "torchscript"], typer.Option("--exporter", help="Which of torch's exporters.")
    ] = "dynamo",
    opset: Annotated[
        int | None,
        typer.Option(
            "--opset", min=7, metavar="N", help="By default 20 for dynamo, 17 for torchscript.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export a torch module to ONNX, and hold it against torch's own results.

    The factory is called without arguments and returns (module, inputs).
    """
    with Screen(as_json) as screen:
        from graphopt.models.export import export as run

        with Watch(screen) as watch:
            found = run(factory, output, exporter=exporter, opset=opset, events=watch.event)
        screen.result(
            {
                "path": str(found.path),
                "exporter": found.exporter,
                "opset": found.opset,
                "nodes": found.nodes,
                "max_error": found.max_error,
            }
        )
        if not as_json:
            screen.fact("exported", f"{plural(found.nodes, 'node')}, opset {found.opset}, by {found.exporter}")
            screen.fact("verified", f"at most {small(found.max_error)} from what torch computes", "green")
            screen.fact("written", str(found.path), "bold")
