"""Names, put right after edits.

Passes create values, and move them between graphs, without thinking of names. ``tidy`` then gives every value
of a body a name of its own, deterministically and in time linear in the graph. It also turns initialisers
of local functions, which ONNX does not allow, into Constant nodes.

ONNX asks a name to be unique in its graph and the graphs around it (IR specification, "Names within a
graph"). One table for the whole body is stricter and simpler.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from .walk import Body, bodies


def tidy(model: ir.Model) -> None:
    """Make the names of values, and of nodes, unique in each body; inputs and outputs of the body keep theirs."""
    for body in bodies(model):
        if body.function is not None:
            _write_as_constants(body.graph)
        graphs = list(body.graphs())
        _make_unique(body, graphs)
        _make_node_names_unique(body.graph if len(graphs) == 1 else body.nodes())


def _write_as_constants(graph: ir.Graph) -> None:
    """A FunctionProto has no initialisers: put Constant nodes in front instead."""
    for value in list(graph.initializers.values()):
        assert value.const_value is not None
        node = ir.node("Constant", [], {"value": value.const_value})
        node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
        first = next(iter(graph), None)
        if first is None:
            graph.append(node)
        else:
            graph.insert_before(first, node)
        for user, index in tuple(value.uses()):
            user.replace_input_with(index, node.outputs[0])
        del graph.initializers[value.name or ""]


def _values(body: Body, graphs: list[ir.Graph]) -> list[ir.Value]:
    """Every value defined in the body, the public ones first."""
    found = [*body.graph.inputs, *body.graph.outputs]
    for graph in graphs:
        found.extend(graph.inputs)
        found.extend(graph.initializers.values())
        for node in graph:
            found.extend(node.outputs)
    return found


def _make_unique(body: Body, graphs: list[ir.Graph]) -> None:
    owners: dict[str, ir.Value] = {}
    nameless: list[ir.Value] = []
    for value in _values(body, graphs):
        name = value.name
        if not name:
            if name is None or value.uses() or value.is_graph_output():
                nameless.append(value)  # otherwise "": an optional output that is left out
        elif owners.setdefault(name, value) is not value:
            nameless.append(value)
    counts: dict[str, int] = {}
    for value in nameless:
        producer = value.producer()
        base = value.name or (producer.op_type if producer is not None else "value")
        count = counts.get(base, 0)
        name = f"{base}_{count}"
        while name in owners:
            count += 1
            name = f"{base}_{count}"
        counts[base] = count + 1
        owners[name] = value
        value.name = name


def _make_node_names_unique(nodes: Iterable[ir.Node]) -> None:
    """Runtimes refuse two nodes of one name in a graph: inlined ones bring the names of theirs along."""
    taken: set[str] = set()
    clashing: list[ir.Node] = []
    for node in nodes:
        name = node.name
        if name in taken:
            clashing.append(node)
        elif name:
            taken.add(name)
    counts: dict[str, int] = {}
    for node in clashing:
        base = node.name or ""
        count = counts.get(base, 0)
        while f"{base}_{count}" in taken:
            count += 1
        counts[base] = count + 1
        node.name = f"{base}_{count}"
        taken.add(node.name)
