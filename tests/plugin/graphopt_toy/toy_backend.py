"""A backend that runs nothing: it shows what one has to have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


class ToyBackend:
    """Lowers a model to its number of nodes."""

    name = "toy"

    def targets(self) -> Iterable[str]:
        """Any target will do."""
        return ["onnx"]

    def legal(self, model: Any, target: Any) -> Iterator[Any]:
        """Every model is legal."""
        return iter(())

    def compile(self, model: Any, target: Any, output: Path) -> int:
        """The number of nodes of the main graph."""
        return len(model.graph)

    def load(self, folder: Path) -> int:
        """There is nothing to load."""
        return 0
