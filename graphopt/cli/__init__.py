"""The command ``graphopt``: one small file for each group of commands.

Nothing here imports onnx, numpy or a runtime before a command needs it, so ``graphopt --help`` answers at once. The
library reports and raises; only this package prints, and only ``ending`` decides how a command ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from . import bench, choices, demo, export, inspect, models, optimize, profile_target, quantize, report, verify

__all__ = ["app", "main"]

app = typer.Typer(
    name="graphopt",
    help="Optimises neural-network graphs in ONNX, proves each result, and measures what it gained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", metavar="", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", metavar="", help="Show the version.")] = False,
) -> None:
    """What holds for every command; ``main`` has read both options already."""


app.command("optimize")(optimize.optimize)
app.command("quantize")(quantize.quantize)
app.command("verify")(verify.verify)
app.command("bench")(bench.bench)
app.command("inspect")(inspect.inspect)
app.command("report")(report.report)
app.command("demo")(demo.demo)
app.command("passes")(choices.passes)
app.command("targets")(choices.targets)
app.command("recipes")(choices.recipes)
app.command("profile-target")(profile_target.profile_target)
app.add_typer(models.app, name="models")
app.command("export")(export.export)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: without the program's name; by default the process's.

    Returns:
        the exit code: 0 done, 1 failed, 2 the call was wrong, 130 interrupted.
    """
    from .ending import run

    return run(app, argv)
