"""Removing what nothing uses: dead nodes and dead initialisers, in subgraphs and local functions too."""

from __future__ import annotations

import onnx_ir as ir

from .edits import is_dead, release
from .facts import STANDARD_DOMAINS
from .walk import Body, bodies, has_subgraphs, subgraphs

PURE_DOMAINS = STANDARD_DOMAINS | {"ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.nchwc"}


def dead_nodes(model: ir.Model) -> list[ir.Node]:
    """The nodes ``sweep`` would remove, consumers before their producers.

    A node of a domain nobody has described may have a side effect, so it lives even when its outputs are
    unused; local functions and known operator sets are pure.
    """
    local = {identifier[:2] for identifier in model.functions}
    found: list[ir.Node] = []
    for body in bodies(model):
        _collect(body.graph, local, found)
    return found


def _collect(graph: ir.Graph, local: set[tuple[str, str]], found: list[ir.Node]) -> None:
    """Reverse topological order: by the time a node is looked at, all its users have been."""
    dead: set[ir.Node] = set()
    for node in reversed(graph):
        pure = node.domain in PURE_DOMAINS or (node.domain, node.op_type) in local
        if pure and not _is_used(node, dead):
            dead.add(node)
            _bury(node, dead)
            found.append(node)
        elif has_subgraphs(node):
            for inner in subgraphs(node):
                before = len(found)
                _collect(inner, local, found)
                dead.update(found[before:])


def _is_used(node: ir.Node, dead: set[ir.Node]) -> bool:
    for output in node.outputs:
        if output.is_graph_output():
            return True
        for user, _ in output.uses():
            if user not in dead:
                return True
    return False


def _bury(node: ir.Node, dead: set[ir.Node]) -> None:
    """The nodes inside a dead node are dead: they no longer use outer values."""
    for graph in subgraphs(node):
        for inner in graph:
            dead.add(inner)
            _bury(inner, dead)


def remove_dead(node: ir.Node) -> None:
    """Remove a node that ``is_dead``; a no-op when it has gone already or is in use after all."""
    if node.graph is not None and is_dead(node):
        node.graph.remove(node)
        release(node)


def dead_initializers(model: ir.Model) -> list[ir.Value]:
    """Initialisers that nothing uses and that are no default of a graph input."""
    found: list[ir.Value] = []
    for body in bodies(model):
        found.extend(_unused(body))
    return found


def _unused(body: Body) -> list[ir.Value]:
    return [
        value
        for graph in body.graphs()
        for value in graph.initializers.values()
        if not (value.uses() or value.is_graph_output() or value.is_graph_input())
    ]


def sweep(model: ir.Model) -> int:
    """Remove dead nodes and initialisers; returns how many went. Linear in the graph."""
    count = 0
    for node in dead_nodes(model):
        remove_dead(node)
        count += 1
    for value in dead_initializers(model):
        graph = value.graph
        assert graph is not None
        del graph.initializers[value.name or ""]
        count += 1
    return count
