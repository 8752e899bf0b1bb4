"""Edits that keep a model valid: the only ways passes change a graph.

All of them keep the interface: a graph output keeps its name, no output is listed twice, no output of a
subgraph is an outer or passed-through value. New nodes and values may be left unnamed; ``tidy`` names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from .tensors import detached
from .walk import subgraphs


def insert_before(node: ir.Node, new_nodes: ir.Node | Iterable[ir.Node]) -> None:
    """Insert nodes in front of a node, in the same graph."""
    assert node.graph is not None, "the node has been removed"
    node.graph.insert_before(node, new_nodes)


def insert_after(node: ir.Node, new_nodes: ir.Node | Iterable[ir.Node]) -> None:
    """Insert nodes behind a node, in the same graph."""
    assert node.graph is not None, "the node has been removed"
    node.graph.insert_after(node, new_nodes)


def new_initializer(graph: ir.Graph, elements: np.ndarray | np.generic | ir.TensorProtocol, hint: str) -> ir.Value:
    """A new constant of a graph.

    Args:
        graph: the graph that will use it (a subgraph may own initialisers; for a local function, which
            may not, ``tidy`` turns it into a Constant node).
        elements: the tensor; an array must not be written to from here on.
        hint: the wished-for name; made unique within the graph.
    """
    name = hint or "constant"
    count = len(graph.initializers)
    while name in graph.initializers:
        name = f"{hint}_{count}"
        count += 1
    if isinstance(elements, (np.ndarray, np.generic)):
        array: np.ndarray = np.ascontiguousarray(elements).reshape(elements.shape)
        tensor: ir.TensorProtocol = ir.Tensor(array) if array.dtype.kind in "biuf" else ir.tensor(array)
    else:
        tensor = detached(elements)
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    graph.initializers.add(value)
    return value


def replace(old: ir.Value, new: ir.Value) -> None:
    """Redirect every use of ``old`` to ``new``: nodes', subgraphs' and the graph's outputs.

    Where ``old`` is a graph output, ``new`` takes over its place and name, or, where it cannot (it is an input,
    an initialiser, already an output, or of an outer graph), an Identity node is added that does. The producer
    of ``old`` stays; ``remove`` or ``erase_if_dead`` takes it away.
    """
    if new is old:
        return
    if new.shape is None and old.shape is not None:
        new.shape = old.shape
    if new.type is None:
        new.type = old.type
    for user, index in tuple(old.uses()):
        user.replace_input_with(index, new)
    if old.is_graph_output():
        _hand_over_output(old, new)


def succeed(old: ir.Value, new: ir.Value) -> None:
    """``replace``, for a value that now holds what ``old`` held because its node computes more than before.

    It takes the name too: under its own name one would look for what it held before.
    """
    name = old.name
    replace(old, new)
    if not new.is_graph_output() and not old.is_graph_output():
        old.name = None
        new.name = name


def _hand_over_output(old: ir.Value, new: ir.Value) -> None:
    graph = old.graph
    assert graph is not None
    producer = new.producer()
    stand_in = new
    if producer is None or producer.graph is not graph or new.is_graph_output() or new.is_initializer():
        identity = ir.node("Identity", [new])
        stand_in = identity.outputs[0]
        stand_in.shape, stand_in.type = old.shape, old.type
        graph.append(identity)
    name = old.name
    old.name = None if old.producer() is not None else f"{name}_replaced"
    stand_in.name = name
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = stand_in


def can_hand_over(old: ir.Value, new: ir.Value) -> bool:
    """True when replacing ``old`` by ``new`` needs no Identity node: what makes removing an Identity worth it."""
    if not old.is_graph_output():
        return True
    producer = new.producer()
    return producer is not None and producer.graph is old.graph and not new.is_graph_output()


def remove(node: ir.Node) -> None:
    """Take a node out of its graph and let go of its inputs, those of its subgraphs too.

    Its outputs must not be used any more.
    """
    graph = node.graph
    assert graph is not None, "the node has been removed already"
    for output in node.outputs:
        assert not output.uses() and not output.is_graph_output(), f"'{output.name}' is still used"
    graph.remove(node)
    release(node)


def release(node: ir.Node) -> None:
    """Let go of all values that a removed node and the graphs inside it use."""
    for index, value in enumerate(node.inputs):
        if value is not None:
            node.replace_input_with(index, None)
    for graph in subgraphs(node):
        for inner in graph:
            release(inner)


def is_dead(node: ir.Node) -> bool:
    """True when nothing uses any output of the node."""
    return not any(output.uses() or output.is_graph_output() for output in node.outputs)


def erase_if_dead(node: ir.Node | None) -> None:
    """Remove a node that nothing uses, then its producers that nothing uses any more, and so on."""
    pending = [node]
    while pending:
        node = pending.pop()
        if node is None or node.graph is None or not is_dead(node):
            continue
        producers = [value.producer() for value in captured_values(node)]
        remove(node)
        pending.extend(producers)


def captured_values(node: ir.Node) -> list[ir.Value]:
    """All values a node reads: its inputs, and what its subgraphs read (own inner values included)."""
    values = [value for value in node.inputs if value is not None]
    for graph in subgraphs(node):
        for inner in graph:
            values.extend(captured_values(inner))
    return values


def replace_node(old: ir.Node, new_nodes: Sequence[ir.Node], new_outputs: Sequence[ir.Value | None]) -> None:
    """Put new nodes in the place of a node.

    Args:
        old: the node to go; its producers that become dead go too.
        new_nodes: in topological order, using values that are visible at the place of ``old``.
        new_outputs: one value for each output of ``old``; None for an output that nothing uses. A value that the new
            nodes compute takes the old one's name.
    """
    insert_before(old, new_nodes)
    for node in new_nodes:
        node.metadata_props.update(old.metadata_props)
    made = set(new_nodes)
    for before, after in zip(old.outputs, new_outputs, strict=True):
        if after is not None:
            (succeed if after.producer() in made else replace)(before, after)
    erase_if_dead(old)
