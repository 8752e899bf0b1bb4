"""``graphopt optimize``: the main job."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graphopt.errors import GraphoptError

from .arguments import (
    DataOption,
    JsonOption,
    Model,
    RunsOption,
    SeedOption,
    TargetOption,
    ThreadsOption,
    byte_size,
    open_data,
)
from .screen import Screen
from .watch import Watch, outcome_table
from .words import change, count, plural, profile_words, size, small

if TYPE_CHECKING:
    from graphopt.flows.optimize import Optimized
    from graphopt.pipeline import Outcome


def optimize(
    model: Model,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT", help="The file to write.", show_default=False)
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="RECIPE",
            help="A name, a .toml file, or text such as 'clean, fuse-batchnorm'; by default the target's own.",
            show_default=False,
        ),
    ] = None,
    target: TargetOption = "onnx",
    data: DataOption = None,
    verify: Annotated[
        Literal["end", "each", "off"],
        typer.Option("--verify", help="Compare with the original: once at the end, after each pass, or not at all."),
    ] = "end",
    input_layout: Annotated[
        Literal["keep", "nchw", "nhwc"],
        typer.Option("--input-layout", help="Take images with their channels last (nhwc) or first (nchw)."),
    ] = "keep",
    output_layout: Annotated[
        Literal["keep", "nchw", "nhwc"], typer.Option("--output-layout", help="The same for what the model gives.")
    ] = "keep",
    external_data: Annotated[
        str | None,
        typer.Option(
            "--external-data",
            metavar="SIZE",
            help="Write weights above that size (0, 100KB, 1MiB) into OUT.data; by default only those of large models.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Say what would change; write nothing.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            metavar="",
            help="Say why: fused operators used or refused, by which measurement, and every place that was kept.",
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", metavar="", help="Fail when a pass fails or breaks its promise, or nothing can be verified."
        ),
    ] = False,
    seed: SeedOption = 0,
    report: Annotated[
        bool,
        typer.Option(
            "--report", metavar="", help="Also measure before and after, and leave a run folder with a report."
        ),
    ] = False,
    runs: RunsOption = Path("runs"),
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Rewrite a model, prove that it computes the same, and write it.

    The input is never touched. The output appears when everything is done, or not at all.
    """
    if output is None and not dry_run:
        raise GraphoptError(
            "there is no place for the result", "graphopt optimize", "add -o OUT.onnx, or --dry-run", usage=True
        )
    if dry_run and report:
        raise GraphoptError(
            "a dry run writes nothing, and a report is written", "graphopt optimize", "drop one of them", usage=True
        )
    if output is not None and str(output).startswith("-"):
        raise GraphoptError(
            "the output's name begins with a dash", f"-o {output}", "a model is written to a file: name one", usage=True
        )
    with Screen(as_json) as screen:
        from graphopt.flows.optimize import Request
        from graphopt.flows.optimize import optimize as run

        with Watch(screen) as watch:
            request = Request(
                recipe,
                target,
                open_data(data),
                verify,
                strict,
                seed,
                events=watch.event,
                input_layout=input_layout,
                output_layout=output_layout,
                external_above=None if external_data is None else byte_size(external_data, "--external-data"),
            )
            place = None if dry_run else output
            if not report:
                result, recorded = run(model, place, request), None
            else:
                from graphopt.flows.record import optimize_on_record

                command = ["optimize", *sys.argv[2:]]
                recorded = optimize_on_record(model, place, request, runs=runs, command=command, threads=threads)
                result = recorded.optimized
        screen.result(result.as_json())
        if not as_json:
            show(screen, result, model, place, explained=explain)
            if explain:
                fused(screen, result)
                refusals(screen, result.outcomes)
        if recorded is not None:
            from .report import show_record

            show_record(screen, recorded)


def show(screen: Screen, result: Optimized, source: Path, output: Path | None, *, explained: bool = False) -> None:
    """The account of a run that is over."""
    from graphopt.flows.places import file_bytes

    before, after, outcomes = result.before, result.after, result.outcomes
    outcome_table(screen, outcomes)
    screen.fact("nodes", _change(before.nodes, after.nodes, count))
    moves = before.operators.get("Transpose", 0), after.operators.get("Transpose", 0)
    if moves[0] != moves[1]:
        screen.fact("transpose", f"{count(moves[0])} -> {count(moves[1])} nodes")
    screen.fact("weights", _change(before.bytes, after.bytes, size))
    if output is not None:
        screen.fact("file", _change(file_bytes(source), file_bytes(output), size))
    screen.fact("verified", *_verified(result))
    for step in outcomes:
        for (where, text), cause in zip(step.left_out, step.causes, strict=True):
            screen.fact("left out", f"{step.name} at {where}: {text}; {cause}", "yellow")
        if step.failed:
            screen.fact("left out", f"the whole pass {step.name}: {step.failed}", "yellow")
    kept = sum(len(step.kept) for step in outcomes)
    if kept:
        why = "" if explained else "; --explain says why"
        screen.fact("kept", f"{plural(kept, 'place')} as {'it was' if kept == 1 else 'they were'}{why}")
    if output is not None:
        screen.fact("written", str(output), "bold")
    else:
        screen.fact("written", "nothing: this was a dry run" if outcomes.changed else "nothing: a dry run, no changes")


def _change(before: int, after: int, words: Callable[[int], str]) -> str:
    if before == after:
        return f"{words(before)}, as before"
    return f"{words(before)} -> {words(after)}  ({change(before, after)})"


def _verified(result: Optimized) -> tuple[str, str]:
    """What verification said, and in which colour."""
    from graphopt.execute.compare import allowance

    verdict = result.outcomes.verdict
    if verdict is None:
        why = result.outcomes.unverified or "nothing was to be compared"
        return f"NO: {why}", "bold yellow"
    used = plural(verdict.feeds, "feed")
    if result.samples is not None and verdict.feeds < result.samples:
        used = f"{verdict.feeds:,} of {plural(result.samples, 'feed')}"
    on = f"on {used} ({result.feeds})"
    aside = [f"'{name}' differs from run to run of the same model" for name in verdict.not_comparable]
    aside += verdict.notes
    more = f"; {'; '.join(aside)}" if aside else ""
    if verdict.verdict == "equal":
        return f"equal bit for bit {on}{more}", "green"
    if verdict.verdict == "within tolerance":
        worst = max(verdict.outputs, key=lambda item: item.max_abs)
        said = f"largest difference {small(worst.max_abs)} in output '{worst.name}'"
        return f"within tolerance {on}: {said}; allowed: {allowance(worst.tolerance)}{more}", "green"
    return f"{verdict.verdict} {on}{more}", "yellow"


def fused(screen: Screen, result: Optimized) -> None:
    """Which fused operators were used or refused, by which measurement."""
    from graphopt.flows.decisions import profiles

    if not result.decisions:
        return
    screen.line()
    screen.line(f"fused operators, asked of the target {result.target.name}", style="bold")
    for item in result.decisions:
        nodes = f", {plural(item.after, 'node')}" if item.verdict == "used" and item.after else ""
        ratio = f" ({item.measured()})" if item.ratio is not None else ""
        meaning = f" ({item.meaning})" if item.meaning else ""
        screen.fact(item.verdict, f"{item.form}{meaning}{nodes}: {item.why}{ratio}")
    asked = profiles(result.target)
    for facts in asked:
        screen.fact("measured", profile_words(facts), "dim")
    if asked:
        screen.line(f"`graphopt targets {result.target.name}` shows every measurement.", style="dim")
    else:
        screen.fact("measured", f"nothing, of {result.target.name}: standard operators are taken as they are", "dim")


def refusals(screen: Screen, outcomes: Iterable[Outcome]) -> None:
    """Every place that was kept, by pass and reason."""
    for step in outcomes:
        groups: dict[str, list[str]] = {}
        for where, reason in step.kept:
            groups.setdefault(reason, []).append(where)
        if groups:
            screen.line()
            screen.line(f"{step.name} kept {plural(len(step.kept), 'place')}", style="bold")
        for reason, places in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
            screen.line(f"  {reason} ({len(places)})")
            for place in places:
                screen.line(f"    {place}", style="dim")
