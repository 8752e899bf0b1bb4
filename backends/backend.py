"""What a backend is: something that lowers a model for a target and runs it there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import onnx_ir as ir

from graphopt.events import Site
from graphopt.target import Target


class Artifact(Protocol):
    """A lowered model, loaded."""

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name."""
        ...


class Backend(Protocol):
    """A runtime or compiler.

    Attributes:
        name: as in manifests.
    """

    name: str

    def targets(self) -> Iterable[str]:
        """Names of the targets it lowers for."""
        ...

    def legal(self, model: ir.Model, target: Target) -> Iterator[Site]:
        """A site with a reason for each node it cannot lower; nothing when the whole model is legal."""
        ...

    def compile(self, model: ir.Model, target: Target, output: Path) -> Artifact:
        """Lower a model into an artifact folder, whole or not at all, and load it."""
        ...

    def load(self, folder: Path) -> Artifact:
        """Load an artifact, its files checked against the manifest."""
        ...
