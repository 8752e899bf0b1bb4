"""Moving what is inside a node's graph to where the node stands."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.ir import constant, insert_after


def known_bool(value: ir.Value | None) -> bool | None:
    """The truth of a constant of one element, or None."""
    tensor = constant(value)
    if tensor is None or tensor.size != 1 or tensor.dtype != ir.DataType.BOOL:
        return None
    return bool(tensor.numpy().reshape(()).item())


def spill(inner: ir.Graph, node: ir.Node) -> None:
    """Move the nodes and initialisers of a graph inside ``node`` to the graph around, right behind ``node``.

    What they read of outer graphs is visible there as well, and everything that reads the outputs of ``node``
    comes later, so the order stays topological. The inner graph's inputs must not be used any more. Names may
    collide until ``tidy``.
    """
    outer = node.graph
    assert outer is not None, "the node has been removed"
    inner.outputs.clear()
    for value in list(inner.initializers.values()):
        name = value.name or "constant"
        del inner.initializers[name]
        value.name = _free_name(outer, name)
        outer.initializers.add(value)
    moved = list(inner)
    inner.remove(moved)
    insert_after(node, moved)


def _free_name(graph: ir.Graph, name: str) -> str:
    free, count = name, len(graph.initializers)
    while free in graph.initializers:
        free = f"{name}_{count}"
        count += 1
    return free
