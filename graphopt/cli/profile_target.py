"""``graphopt profile-target``: which fused operators pay on this machine?"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.events import Event
from graphopt.profile import ELEMENTS, Point, Profile
from graphopt.target import is_faster, is_slower

from .arguments import JsonOption, SeedOption, ThreadsOption
from .live import LiveTable
from .screen import Screen, table
from .words import plural

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphopt.flows.profile_target import Profiled

COLUMNS = ("form", ">size", ">ratio", ">95 %", "verdict")


def profile_target(
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="TARGET",
            help="Whose runtime to measure; this machine's without. `graphopt targets` lists them.",
            show_default=False,
        ),
    ] = None,
    forms: Annotated[
        list[str] | None,
        typer.Option(
            "--forms", metavar="A,B", help="Measure these only, as Gelu,Attention; all without.", show_default=False
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=0.01, metavar="S", help="How long to measure each side of each size, at least."),
    ] = 1.0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="Write the profile there; without, where it is used.", show_default=False
        ),
    ] = None,
    threads: ThreadsOption = 1,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure which fused operators are faster here than what they stand for, and at which sizes.

    From then on passes for that target ask this profile. All of it takes several minutes.
    """
    with Screen(as_json) as screen:
        from graphopt.flows.profile_target import profile_target as run

        wanted = [form for text in forms or () for form in text.replace(",", " ").split()]
        with Progress(screen) as progress:
            found = run(
                target,
                wanted,
                seconds=seconds,
                output=output,
                threads=threads,
                seed=seed,
                events=progress.event,
            )
        screen.result(found.as_json())
        if not as_json:
            show(screen, found, output is None)


def show(screen: Screen, found: Profiled, used: bool) -> None:
    """The table of what was measured, what cannot be used, and where the profile is."""
    profile_table(screen, found.profile)
    screen.line()
    screen.fact("target", found.target)
    screen.fact("machine", machine_words(found.profile))
    screen.fact("written", f"{found.path}" + ("; it is used from now on" if used else ""))


def profile_table(screen: Screen, profile: Profile) -> None:
    """Every point of every form with its verdict, and why forms cannot be used.

    A form's name and unit stand beside its points, in as many lines; ``*`` marks points of another machine.
    """
    rows: list[tuple[str, ...]] = []
    styles: list[str] = []
    elsewhere = False
    for form in profile.names():
        points = profile.points(form)
        foreign = profile.source(form) is not profile
        elsewhere |= foreign and bool(points)
        for words, point in zip_longest(_name(form, profile.unit(form), foreign) if points else (), points):
            cells, style = ("",) * 4, ""
            if point is not None:
                word, style = verdict(point)
                cells = (*_numbers(point.work, point.ratio, point.low, point.high), word)
            rows.append((words or "", *cells))
            styles.append(style)
    if rows:
        screen.table(COLUMNS, rows, styles)
    if elsewhere:
        screen.line("* measured on another machine, and shipped with graphopt", style="dim")
    for form in profile.names():
        if profile.lack(form):
            screen.line(f"{form} cannot be used: {profile.lack(form)}", style="yellow")


def _numbers(work: int, ratio: float, low: float, high: float) -> tuple[str, str, str]:
    return f"{work:,}", f"{ratio:.2f}", f"{low:.2f}..{high:.2f}"


def _name(form: str, unit: str, foreign: bool) -> list[str]:
    """The lines beside a form's points: its domain, itself, and what its size counts."""
    domain, mark, name = form.rpartition("::")
    lines = [f"{domain}{mark}", name] if domain else [name]
    if foreign:
        lines[0] += " *"
    return lines if unit == ELEMENTS else [*lines, f"({unit})"]


def verdict(point: Point) -> tuple[str, str]:
    """What the interval allows to say, and how to colour it."""
    if is_slower(point):
        return "slower", "red"
    return ("faster", "green") if is_faster(point) else ("same", "")


def machine_words(profile: Profile) -> str:
    """Where and when a profile was measured."""
    machine = profile.machine
    if not machine:
        return "unmeasured"
    version = machine.get("versions", {}).get("onnxruntime", "")
    parts = [str(machine.get("cpu", "")), plural(profile.threads, "thread") if profile.threads else "all cores"]
    parts += [f"onnxruntime {version}"] if version else []
    return ", ".join([*parts, profile.measured])


class Progress(LiveTable):
    """Hears the measurement's events: a live table on a terminal, a line for each form elsewhere."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self._rows: list[tuple[str, ...]] = []
        self._status = "opening a session"

    def event(self, event: Event) -> None:
        """One event of the measurement."""
        if self._screen.as_json:
            self._screen.event(event)
            return
        data = event.data
        match data.get("stage"):
            case "measuring":
                self._status = f"{data['number']} of {data['of']}: {data['form']}"
                if self._live is None:
                    self._screen.line(self._status)
                    self._screen.console.file.flush()  # into a file or pipe at once: the next line takes seconds
            case "measured":
                self._rows.append((data["form"], *_numbers(data["work"], data["ratio"], data["low"], data["high"])))
            case _:
                pass

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.text import Text

        status = Spinner("line", Text(self._status, style="dim"))
        rows = self._rows[-12:]
        return Group(table(COLUMNS[:4], rows), status) if rows else status
