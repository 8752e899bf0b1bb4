"""``graphopt verify``: do two models compute the same?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import DataOption, JsonOption, SeedOption, open_data
from .screen import Screen
from .words import decibels, small

if TYPE_CHECKING:
    from graphopt.flows.verify import Verification


def verify(
    a: Annotated[Path, typer.Argument(metavar="A", help="The model that is right.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="The model in question.", show_default=False)],
    data: DataOption = None,
    rtol: Annotated[
        float | None,
        typer.Option("--rtol", min=0, metavar="R", help="Allowed relative difference.", show_default=False),
    ] = None,
    atol: Annotated[
        float | None,
        typer.Option("--atol", min=0, metavar="A", help="Allowed absolute difference.", show_default=False),
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare two models' outputs on the same feeds; find the first tensor inside that differs.

    Without --rtol and --atol what rounding explains is allowed. The exit code is 1 when the models differ.
    """
    with Screen(as_json) as screen:
        from graphopt.execute.compare import Tolerance
        from graphopt.flows.verify import verify as run

        given = None if rtol is None and atol is None else Tolerance(rtol=rtol or 0.0, atol=atol or 0.0)
        found = run(a, b, open_data(data), tolerance=given, seed=seed)
        screen.result(found.as_json())
        if not as_json:
            show(screen, found)
        if not found.ok:
            raise typer.Exit(1)


def show(screen: Screen, found: Verification) -> None:
    """The table of outputs, and the verdict."""
    from graphopt.execute.compare import allowance

    verdict = found.verdict
    rows: list[tuple[str, ...]] = []
    styles: list[str] = []
    for item in verdict.outputs:
        kind = f"{item.dtype}[{','.join(map(str, item.shape))}]"
        said = "ok" if item.ok else "DIFFERS"
        noise = decibels(item.sqnr_db)
        rows.append((item.name, kind, small(item.max_abs), small(item.max_rel), noise, said))
        styles.append("" if item.ok else "red")
    if rows:
        screen.table(("output", "type", ">max abs", ">max rel", ">signal", "verdict"), rows, styles)
        allowed = dict.fromkeys(allowance(item.tolerance) for item in verdict.outputs)
        screen.line(f"allowed: {'; '.join(allowed)}", style="dim")
        screen.line()
    said = {"equal": "equal bit for bit", "different": "DIFFERENT", "does not run": "the second model DOES NOT RUN"}
    words = said.get(verdict.verdict, verdict.verdict)
    screen.fact("verdict", words, "green" if found.ok else "red")
    screen.fact("feeds", found.feeds)
    if verdict.evaluator != "onnxruntime":
        screen.fact("computed", f"by {verdict.evaluator}: ONNX Runtime has no kernel for one of the operators")
    for problem in verdict.problems:
        screen.fact("problem", problem, "red")
    for item in verdict.outputs:
        if not item.ok:
            screen.fact("problem", f"output '{item.name}': {item.reason}", "red")
    for name in verdict.not_comparable:
        screen.fact("note", f"output '{name}' differs from run to run of the same model: not compared", "yellow")
    for note in verdict.notes:
        screen.fact("note", note, "yellow")
    if found.divergence is not None:
        screen.fact("first", str(found.divergence), "red")
    elif found.unfound:
        screen.fact("first", f"the first tensor that differs was not found: {found.unfound}", "yellow")
