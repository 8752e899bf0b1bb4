"""Removing what nothing uses: dead nodes and dead initialisers, in subgraphs and local functions too."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from .edits import is_dead, release
from .facts import STANDARD_DOMAINS
from .walk import bodies, graphs, has_subgraphs, subgraphs

PURE_DOMAINS = STANDARD_DOMAINS | {"ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.nchwc"}


def dead_nodes(model: ir.Model) -> list[ir.Node]:
    """The nodes ``sweep`` would remove, consumers before their producers.

    A node of a domain nobody has described may have a side effect, so it lives even when its outputs are
    unused; local functions and known operator sets are pure.
    """
    return _look_through(model)[0]


def _look_through(model: ir.Model) -> tuple[list[ir.Node], list[ir.Graph]]:
    """The dead nodes, and the graphs that live: both in one walk, for it is done behind every pass."""
    local = {identifier[:2] for identifier in model.functions}
    found: list[ir.Node] = []
    alive: list[ir.Graph] = []
    for body in bodies(model):
        _collect(body.graph, local, found, alive)
    return found, alive


def _collect(graph: ir.Graph, local: set[tuple[str, str]], found: list[ir.Node], alive: list[ir.Graph]) -> None:
    """Reverse topological order: by the time a node is looked at, all its users have been."""
    alive.append(graph)
    dead: set[ir.Node] = set()
    for node in reversed(graph):
        for output in node.outputs:
            if output.is_graph_output():
                break
            uses = output.uses()
            if uses and (not dead or not dead.issuperset([user for user, _ in uses])):
                break
        else:
            if node.domain in PURE_DOMAINS or (node.domain, node.op_type) in local:
                dead.add(node)
                _bury(node, dead)
                found.append(node)
                continue
        if has_subgraphs(node):
            for inner in subgraphs(node):
                before = len(found)
                _collect(inner, local, found, alive)
                dead.update(found[before:])


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
    return _unused(graphs(model))


def _unused(living: Iterable[ir.Graph]) -> list[ir.Value]:
    return [
        value
        for graph in living
        for value in graph.initializers.values()
        if not (value.uses() or value.is_graph_output() or value.is_graph_input())
    ]


def sweep(model: ir.Model) -> int:
    """Remove dead nodes and initialisers; returns how many went. Linear in the graph."""
    dead, alive = _look_through(model)
    for node in dead:
        remove_dead(node)
    unused = _unused(alive)
    for value in unused:
        graph = value.graph
        assert graph is not None
        del graph.initializers[value.name or ""]
    return len(dead) + len(unused)
