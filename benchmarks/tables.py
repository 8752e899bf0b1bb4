"""Tables of results: one for the terminal, one in Markdown, from the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable
from trial import Result

_MARKS = {"wrong": "WRONG", "broken": "BROKEN", "refused": "refused", "crashed": "CRASHED", "missing": "-"}


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading.

    Attributes:
        title: what it shows.
        columns: the first is a name, the others are numbers.
        rows: as many cells each.
        footer: how many of the rows, at the end, sum up the others.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    footer: int = 0

    def show(self, console: Console) -> None:
        """Print it."""
        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for place, column in enumerate(self.columns):
            table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
        for place, row in enumerate(self.rows):
            if self.footer and place == len(self.rows) - self.footer:
                table.add_section()
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        """The same as Markdown, with the title as a paragraph."""
        rule = ["---", *("---:" for _ in self.columns[1:])]
        body = [self.columns, rule, *self.rows]
        return "\n".join([f"**{self.title}**", "", *("| " + " | ".join(row) + " |" for row in body)])


def tables(results: Sequence[Result]) -> list[Table]:
    """Everything that is shown of a run: nodes, seconds and memory, latency where measured, and the summary."""
    tools = list(dict.fromkeys(result.tool for result in results))
    models = list(dict.fromkeys(result.model for result in results))
    by_place = {(result.model, result.tool): result for result in results}
    shown = [_nodes(tools, models, by_place), _bytes(tools, models, by_place), _costs(tools, models, by_place)]
    if any(result.ratio is not None for result in results):
        shown.append(_latency(tools, models, by_place))
    return [*shown, summary(results)]


def summary(results: Sequence[Result]) -> Table:
    """A row for each tool; the geometric means are over the models that all tools got right."""
    common = right_everywhere(results)
    rows: list[tuple[str, ...]] = []
    for tool in dict.fromkeys(result.tool for result in results):
        own = [result for result in results if result.tool == tool]
        shared = [result for result in own if result.model in common]
        count = {status: sum(result.status == status for result in own) for status in ("right", *_MARKS)}
        timed = [result.ratio for result in shared if result.ratio is not None]
        rows.append(
            (
                tool,
                _number(geomean(result.nodes / result.nodes_before for result in shared)),
                _number(geomean(result.bytes / result.bytes_before for result in shared)),
                _number(geomean(timed)),
                _number(geomean(result.cpu for result in shared), 2),
                _number(max((result.memory for result in shared), default=0) / 2**20, 0),
                str(count["right"]),
                str(count["wrong"]),
                str(count["broken"]),
                str(count["refused"]),
                str(count["crashed"]),
            )
        )
    title = f"Geometric means over the models that all tools got right ({len(common)}); counts over all models"
    columns = ("tool", "nodes", "bytes", "latency", "CPU s", "most MiB", "right", *list(_MARKS)[:4])
    return Table(title, columns, tuple(rows))


def right_everywhere(results: Iterable[Result]) -> set[str]:
    """The models that every tool that is installed got right."""
    wrong = {result.model for result in results if result.status not in ("right", "missing")}
    return {result.model for result in results if result.status == "right"} - wrong


def geomean(numbers: Iterable[float]) -> float:
    """The geometric mean; NaN of nothing."""
    logs = [math.log(number) for number in numbers if number > 0]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def failures(results: Iterable[Result]) -> list[str]:
    """A line for each result that is not right, and each remark on one that is."""
    return [
        f"{result.model}, {result.tool}: {result.status}: {result.why}"
        for result in results
        if result.why and result.status != "missing"
    ]


def _number(number: float, digits: int = 3) -> str:
    return "" if math.isnan(number) else f"{number:.{digits}f}"


def _nodes(tools: list[str], models: list[str], by_place: dict[tuple[str, str], Result]) -> Table:
    rows = []
    for model in models:
        first = next(result for result in by_place.values() if result.model == model)
        cells = [_cell(by_place.get((model, tool)), lambda result: str(result.nodes)) for tool in tools]
        rows.append((model, str(first.nodes_before), *cells))
    return Table("Nodes, with those of subgraphs and functions", ("model", "before", *tools), tuple(rows))


def _bytes(tools: list[str], models: list[str], by_place: dict[tuple[str, str], Result]) -> Table:
    def ratio(result: Result) -> str:
        return f"{result.bytes / result.bytes_before:.3f}"

    rows = []
    for model in models:
        first = next(result for result in by_place.values() if result.model == model)
        cells = [_cell(by_place.get((model, tool)), ratio) for tool in tools]
        rows.append((model, f"{first.bytes_before / 1e6:.2f}", *cells))
    return Table("File size after/before", ("model", "MB before", *tools), tuple(rows))


def _costs(tools: list[str], models: list[str], by_place: dict[tuple[str, str], Result]) -> Table:
    def cost(result: Result) -> str:
        return f"{result.cpu:.2f} s {result.memory / 2**20:.0f} MiB"

    rows = [(model, *(_cell(by_place.get((model, tool)), cost) for tool in tools)) for model in models]
    title = "CPU seconds to read, optimise and write, and the most memory above that of the imported tool"
    return Table(title, ("model", *tools), tuple(rows))


def _latency(tools: list[str], models: list[str], by_place: dict[tuple[str, str], Result]) -> Table:
    def ratio(result: Result) -> str:
        if result.ratio is None:
            return ""
        return f"{result.ratio:.3f} [{result.ratio_low:.3f}, {result.ratio_high:.3f}]"

    rows = [(model, *(_cell(by_place.get((model, tool)), ratio) for tool in tools)) for model in models]
    title = "Latency after/before, with the interval that holds it with 95 %"
    return Table(title, ("model", *tools), tuple(rows))


def _cell(result: Result | None, text: Callable[[Result], str]) -> str:
    if result is None:
        return ""
    if result.status != "right":
        return _MARKS[result.status]
    return text(result)
