"""Names in scope while a body is walked: what an outer graph defined first is seen inside, never outside."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

import onnx_ir as ir

from graphopt.ir import subgraphs

T = TypeVar("T")


class Scopes(Generic[T]):
    """A table whose entries vanish when the graph they were made in has been left."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, T] = {}
        self._made: list[list[Hashable]] = []

    def get(self, key: Hashable) -> T | None:
        """The entry of this graph or of one around it, or None."""
        return self._entries.get(key)

    def add(self, key: Hashable, entry: T) -> None:
        """Make an entry in the innermost graph; an entry of that key must not be in scope."""
        self._entries[key] = entry
        self._made[-1].append(key)

    def walk(self, graph: ir.Graph) -> Iterator[ir.Graph | ir.Node]:
        """Each graph when it is entered, each node in topological order behind the graphs inside it."""
        self._made.append([])
        yield graph
        for node in graph:
            if node.attributes:
                for inner in subgraphs(node):
                    yield from self.walk(inner)
            yield node
        for key in self._made.pop():
            del self._entries[key]
