"""A table that is drawn anew while something goes on; nothing where the output is no terminal."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .screen import Screen

if TYPE_CHECKING:
    from rich.console import RenderableType


class LiveTable(abc.ABC):
    """Shows what ``_draw`` gives for as long as the context lasts, and then takes it away."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._live: Any = None

    def __enter__(self) -> Self:
        if self._screen.live:
            from rich.live import Live

            self._live = Live(
                console=self._screen.console, get_renderable=self._draw, refresh_per_second=8, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @abc.abstractmethod
    def _draw(self) -> RenderableType:
        """The table as it is now."""
