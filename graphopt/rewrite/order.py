"""Which of two nodes of a graph comes first, in constant time, while nodes come and go.

Needed by rules with several outputs only: the new nodes must stand behind everything they use and in front of
everything that uses them, and a match may leave no such place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeAlias

import onnx_ir as ir

from graphopt.ir.walk import Body, subgraphs

_Label: TypeAlias = tuple[float, ...]


class Order:
    """Labels that compare like the places of the nodes of one body.

    A node's label is its number followed by infinity. Nodes that are inserted in front of it get its number,
    a running one, and infinity: all of these sort behind its predecessor, in front of it, and one after the
    other.
    """

    def __init__(self, body: Body) -> None:
        self._labels: dict[ir.Node, _Label] = {}
        self._inserted: dict[_Label, int] = {}
        self._owners: dict[ir.Graph, ir.Node] = {}
        for graph in body.graphs():
            for number, node in enumerate(graph):
                self._labels[node] = (number,)
                for inner in subgraphs(node):
                    self._owners[inner] = node

    def is_before(self, first: ir.Node, second: ir.Node) -> bool:
        """True when the first of two nodes of one graph is known to stand in front of the second."""
        left, right = self._labels.get(first), self._labels.get(second)
        return left is not None and right is not None and (*left, math.inf) < (*right, math.inf)

    def at(self, node: ir.Node, graph: ir.Graph | None) -> ir.Node | None:
        """The node of a graph that a node is, or is inside of; None when it is outside of the graph."""
        current: ir.Node | None = node
        while current is not None and current.graph is not graph:
            current = self._owners.get(current.graph) if current.graph is not None else None
        return current

    def insert(self, new: Iterable[ir.Node], before: ir.Node, takes_over: bool) -> None:
        """Note that nodes have been inserted in front of a node.

        Args:
            new: the nodes, in their order.
            before: the node behind them.
            takes_over: true when that node is about to be removed: the last new one then inherits its label,
                which keeps labels short when a place is rewritten again and again.
        """
        base = self._labels[before]
        count = self._inserted.get(base, 0)
        nodes = list(new)
        for node in nodes:
            self._labels[node] = (*base, count)
            count += 1
            for inner in subgraphs(node):
                self._owners[inner] = node
        self._inserted[base] = count
        if takes_over and nodes:
            self._labels[nodes[-1]] = base

    def forget(self, nodes: Iterable[ir.Node]) -> None:
        """Note that nodes have been removed."""
        for node in nodes:
            self._labels.pop(node, None)
