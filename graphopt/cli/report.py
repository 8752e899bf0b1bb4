"""``graphopt report``: the page of a run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graphopt.events import Event

from .arguments import JsonOption, RunsOption
from .screen import Screen
from .words import plural

if TYPE_CHECKING:
    from graphopt.flows.record import Recorded

Open = Literal["auto", "yes", "no"]
OpenOption = Annotated[
    Open, typer.Option("--open", help="Open the page in a browser; auto: when there is a terminal and a display.")
]


def report(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder, its name below --runs, or `last`.", show_default=False)
    ],
    runs: RunsOption = Path("runs"),
    open_page: OpenOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write the page of a run again, from its folder, and say where it is."""
    with Screen(as_json) as screen:
        from graphopt.report import render

        folder = _folder(run, runs)
        page = render(folder)
        screen.event(Event("report", {"run": str(folder), "page": str(page)}))
        if not as_json:
            sys.stdout.write(f"{page}\n")
    if open_page == "yes" or (open_page == "auto" and _can_open()):
        typer.launch(page.resolve().as_uri())


def _folder(run: str, runs: Path) -> Path:
    """The folder itself, the one of that name, or the newest run that finished."""
    if run == "last" and runs.is_dir() and not Path(run).exists():
        folders = [folder for folder in runs.iterdir() if _is_finished(folder)]
        if folders:
            return max(folders, key=lambda folder: (folder / "run.json").stat().st_mtime_ns)
    return Path(run) if Path(run).exists() or not (runs / run).is_dir() else runs / run


def _is_finished(folder: Path) -> bool:
    try:
        run = json.loads((folder / "run.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(run, dict) and bool(run.get("finished"))


def _can_open() -> bool:
    if not sys.stdout.isatty():
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def show_record(screen: Screen, recorded: Recorded) -> None:
    """What was measured, and where the run folder and its page are."""
    from graphopt.report import render

    from .bench import claim
    from .words import seconds, three

    page = render(recorded.folder.path)
    if screen.as_json:
        found = recorded.benchmark
        measured = found.as_json() if found is not None else {"unmeasured": recorded.unmeasured}
        screen.event(Event("report", {"run": str(recorded.folder.path), "page": str(page), **measured}))
        return
    if recorded.benchmark is not None:
        first, second = recorded.benchmark.measurements
        ratio = f"ratio {second.ratio:.3f} ({second.ratio_low:.3f} to {second.ratio_high:.3f})"
        threads = plural(second.threads, "thread") if second.threads else "all cores"
        screen.fact("latency", f"{ratio} on {threads}; {three(first.median_ms)} ms before")
        screen.fact("", claim(first, second))
        screen.fact("loading", f"{seconds(first.load_s)} -> {seconds(second.load_s)}")
    else:
        screen.fact("latency", f"not measured: {recorded.unmeasured}", "yellow")
    screen.fact("run", str(recorded.folder.path))
    screen.fact("report", str(page), "bold")
