"""A run while it goes on: a live table on a terminal, a line for each pass that changed something elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphopt.events import Event

from .live import LiveTable
from .screen import Screen, table
from .words import clean, count, plural

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphopt.pipeline import Outcomes

COLUMNS = ("pass", ">changed", ">kept", ">seconds", ">nodes")


@dataclass
class Row:
    """One pass, over all rounds so far."""

    changed: int = 0
    kept: int = 0
    seconds: float = 0.0
    nodes: int = 0

    def cells(self, name: str) -> tuple[str, ...]:
        """Its line of the table."""
        nodes = f"{self.nodes:+,}" if self.nodes else "0"
        return (name, count(self.changed), count(self.kept), f"{self.seconds:.2f}", nodes)


class Watch(LiveTable):
    """Hears a run's events and shows them; use as a context manager around the run."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self._rows: dict[str, Row] = {}
        self._nodes: int | None = None
        self._status = "reading the model"
        self._again = False

    def event(self, event: Event) -> None:
        """One event of the run."""
        data = event.data
        match event.kind:
            case "pass-started":
                if self._again and data["round"] == 1:  # something was left out, and the recipe starts anew
                    self._rows.clear()
                    self._again = False
                self._status = f"round {data['round']}: {data['pass']}"
            case "pass-finished":
                row = self._rows.setdefault(data["pass"], Row())
                row.changed += data["changed"]
                row.kept = data["kept"]
                row.seconds += data["seconds"]
                row.nodes += data["node_delta"]
                self._status = "checking and comparing with the original"
                self._tell(data)
            case "progress":
                self._status = _progress(data)
                self._nodes = data.get("nodes", self._nodes)
                if self._live is None and data.get("stage") == "download" and not self._screen.as_json:
                    self._screen.line(self._status)
            case "warning":
                self._again = True
            case _:
                pass
        if event.kind not in ("verify", "progress") or self._screen.as_json:
            self._screen.event(event)

    def _tell(self, data: dict[str, Any]) -> None:
        """The line of a pass where there is no live table."""
        if self._live is None and not self._screen.as_json and data["changed"]:
            nodes = f"{data['node_delta']:+,} nodes" if data["node_delta"] else "same nodes"
            self._screen.line(
                f"round {data['round']}  {data['pass']}: {count(data['changed'])} changed, "
                f"{count(data['kept'])} kept, {nodes}, {data['seconds']:.2f} s"
            )

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.text import Text

        rows = [row.cells(name) for name, row in self._rows.items()]
        nodes = f"  ({plural(self._nodes, 'node')} at first)" if self._nodes is not None else ""
        status = Spinner("line", Text(clean(self._status + nodes), style="dim"))
        return Group(table(COLUMNS, rows, _styles(self._rows.values())), status) if rows else status


def outcome_table(screen: Screen, outcomes: Outcomes) -> None:
    """The account of all passes: those that changed or kept something, and how many had nothing to do."""
    rows = {
        str(step.applied): Row(len(step.changed), len(step.kept), step.seconds, step.node_delta) for step in outcomes
    }
    busy = {name: row for name, row in rows.items() if row.changed or row.kept}
    if busy:
        screen.table(COLUMNS, [row.cells(name) for name, row in busy.items()], _styles(busy.values()))
    if len(busy) < len(rows):
        idle = len(rows) - len(busy)
        screen.line(f"{plural(idle, 'pass', 'passes')} found nothing to do", style="dim")
    screen.line()


def _styles(rows: Any) -> list[str]:
    return ["" if row.changed else "dim" for row in rows]


def _progress(data: dict[str, Any]) -> str:
    match data.get("stage"):
        case "start":
            return "running the recipe"
        case "download":
            return f"fetching {data['model']} from {data['package']}" + (": done" if data.get("done") else "")
        case stage:
            return str(stage)
