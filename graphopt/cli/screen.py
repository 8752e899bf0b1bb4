"""Where a command's words go: one JSON line per event, or text and tables that fit the terminal.

Tables have no lines around their cells, so a pipe gets the same columns as a terminal. Nothing from a model is ever
taken for markup or control characters.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from graphopt.errors import GraphoptError
from graphopt.events import Event

from .words import clean

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80


class Screen:
    """The output of one command.

    Args:
        as_json: ``--json``: only JSON lines on stdout.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        """Rich's console; 80 columns where there is no terminal."""
        if self._console is None:
            from rich.console import Console

            class Patient(Console):
                """One whose reader may leave (``| head``): the work goes on, unheard."""

                def on_broken_pipe(self) -> None:
                    self.quiet = True
                    unheard()

            terminal = sys.stdout is not None and sys.stdout.isatty()
            self._console = Patient(
                file=sys.stdout, width=None if terminal else WIDTH, markup=False, highlight=False, emoji=False
            )
        return self._console

    @property
    def live(self) -> bool:
        """True where a table can be drawn again and again."""
        return not self.as_json and self.console.is_terminal and not self.console.is_dumb_terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.as_json and isinstance(error, GraphoptError):
            self.event(Event("error", {"what": error.what, "where": error.where, "hint": error.hint}))

    def event(self, event: Event) -> None:
        """Something happened: a JSON line; without ``--json`` only warnings and notes are told, on stderr."""
        if self.as_json:
            from graphopt.flows.plain import plain

            try:
                sys.stdout.write(json.dumps(plain(event.as_json()), allow_nan=False) + "\n")
                sys.stdout.flush()
            except BrokenPipeError:
                unheard()
        elif event.kind in ("warning", "note"):
            said = [str(event.data[key]) for key in ("pass", "site", "text") if event.data.get(key)]
            self.aside(f"{event.kind}: {': '.join(said)}")

    def result(self, data: dict[str, Any]) -> None:
        """What a command found, as its last JSON line; nothing without ``--json``."""
        if self.as_json:
            self.event(Event("result", data))

    def aside(self, text: str) -> None:
        """A line on stderr, above a live table if there is one."""
        line = clean(text)
        if self.live:
            self.line(line, style="yellow")
        else:
            sys.stderr.write(line + "\n")

    def line(self, text: str = "", style: str = "") -> None:
        """A line, wrapped between words."""
        from rich.text import Text

        self.console.print(Text(clean(text), style=style), soft_wrap=not self.console.is_terminal)

    def _print(self, drawn: Any) -> None:
        """Something drawn in columns; elsewhere than on a terminal without blanks at the ends of lines."""
        if self.console.is_terminal:
            self.console.print(drawn)
            return
        with self.console.capture() as capture:
            self.console.print(drawn)
        for line in capture.get().splitlines():
            self.console.file.write(line.rstrip() + "\n")

    def fact(self, title: str, text: str, style: str = "") -> None:
        """``title     text``, wrapped under itself on a terminal; elsewhere one line, which ``grep`` finds whole."""
        from rich.text import Text

        if not self.console.is_terminal:
            self.console.file.write(f"{title:<9} {clean(text)}".rstrip() + "\n")
            return
        grid = _grid()
        grid.add_column(width=9, no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text(title, style="dim"), Text(clean(text), style=style))
        self._print(grid)

    def indented(self, text: str, indent: int, style: str = "") -> None:
        """A paragraph, wrapped, some columns from the left."""
        from rich.padding import Padding
        from rich.text import Text

        self._print(Padding(Text(clean(text), style=style), (0, 0, 0, indent), expand=False))

    def paragraphs(self, text: str, *, spaced: bool = False) -> None:
        """Text as docstrings are written: paragraphs are wrapped anew, indented blocks stay as they are."""
        for index, block in enumerate(text.split("\n\n")):
            if spaced and index:
                self.line()
            if block.startswith((" ", "-", "1.")):
                self.verbatim(block)
            else:
                self.indented(" ".join(block.split()), 0)

    def verbatim(self, text: str) -> None:
        """Lines as they are."""
        for line in text.rstrip().split("\n"):
            self.line(line)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> None:
        """A table; a column whose name begins with ``>`` is of numbers, at the right.

        Args:
            columns: names, shown as they are.
            rows: cells; long names are folded.
            styles: of the rows.
        """
        self._print(table(columns, rows, styles))


def unheard() -> None:
    """Nobody reads stdout any more: what is written from now on goes nowhere, also what waits to be flushed."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> Any:
    """The table as something rich can draw."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        right = name.startswith(">")
        drawn.add_column(name.removeprefix(">"), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for index, cells in enumerate(rows):
        style = styles[index] if index < len(styles) else ""
        drawn.add_row(*(Text(clean(cell), style=style) for cell in cells))
    return drawn


def _grid() -> Any:
    from rich.table import Table

    return Table.grid(padding=(0, 1, 0, 0))
